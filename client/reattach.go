package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
)

// How often to try to reach the server. A carrier is dialled while others still
// are: what has waited through a dead path waits longer than what comes after
// it.
const (
	minPause    = 100 * time.Millisecond
	maxPause    = 10 * time.Second
	maxAttempts = 6               // at once; of more, the oldest is given up
	moveTries   = 5               // to leave a carrier that still works
	helloTurn   = time.Second     // how long one attempt may keep the others from talking to the server
	sameFailure = 1 * time.Minute // how often the same failure is logged
)

// pace says how long to wait before the next attempt. Its zero value begins.
type pace struct{ last time.Duration }

// pause gives the next pause: at first [minPause], and half as much more each
// time, up to [maxPause]. Jitter keeps the clients of a server that comes back
// apart.
func (p *pace) pause() time.Duration {
	p.last = min(max(p.last*3/2, minPause), maxPause)
	return p.last*3/4 + rand.N(p.last/4)
}

// attempt is one try to give a lane a carrier.
type attempt struct {
	cancel context.CancelFunc
	err    error
}

// errand says how to look for a carrier.
type errand struct {
	ways  int  // only the best so many
	move  bool // there is one that works, to be left for a new one
	tries int  // after which to stay with that
}

// reattach tries until the lane has a carrier that works, or until all is said
// and done that its errand has it do.
func (l *lane) reattach(ctx context.Context, e errand) {
	ctx, cancel := context.WithCancel(ctx)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	defer cancel()

	before, _ := l.State()
	first := before.Epoch
	ended := make(chan *attempt)
	var running []*attempt
	var p pace
	due := time.NewTimer(0)
	defer due.Stop()
	stirred := l.client.stirs.next()
	for tries := 0; ; {
		state, changed := l.State()
		works := state.Attached && !state.Suspect
		if works && (!e.move || state.Epoch > first || tries >= e.tries && len(running) == 0) {
			return
		}
		if e.move && !works {
			e, p = errand{ways: len(l.client.ways.dial)}, pace{}
			due.Reset(0)
		}
		select {
		case <-due.C:
			if e.move && tries >= e.tries {
				break
			}
			tries++
			if len(running) == maxAttempts {
				running[0].cancel()
			}
			running = append(running, l.try(ctx, first, e.ways, &attempts, ended))
			l.note(due, p.pause())
		case a := <-ended:
			if e.move && a.err != nil && !errors.Is(a.err, context.Canceled) {
				l.pass(e.ways, a.err)
			}
			running = slices.DeleteFunc(running, func(b *attempt) bool { return a == b })
			if l.failed(a.err, e.move, time.Since(state.Since)) {
				return
			}
		case <-changed:
		case <-stirred:
			stirred = l.client.stirs.next()
			p = pace{}
			due.Reset(0)
		case <-l.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// note plans the next attempt.
func (l *lane) note(due *time.Timer, pause time.Duration) {
	due.Reset(pause)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retry = time.Now().Add(pause)
}

// failed notes how an attempt has ended, and tells whether the lane is over
// with it. Nobody has to hear of one that was made though there is a carrier.
func (l *lane) failed(err error, quiet bool, away time.Duration) bool {
	refusal, refused := errors.AsType[tunnel.Refusal](err)
	switch {
	case err == nil || errors.Is(err, context.Canceled) || errors.Is(err, tunnel.ErrStale):
		return false
	case refused && !refusal.Temporary():
		l.Fail(err)
		return true
	case quiet:
		l.log.Debug("no other carrier", "error", err)
		return false
	}
	l.mu.Lock()
	same := l.failure != nil && l.failure.Error() == err.Error() && time.Since(l.logged) < sameFailure
	l.failure = err
	if !same {
		l.logged = time.Now()
	}
	retry := time.Until(l.retry)
	l.mu.Unlock()
	if !same {
		l.log.Warn("cannot reach the server: connections wait", "error", err,
			"away", away.Round(time.Second), "retry_in", max(retry, 0).Round(time.Millisecond))
	}
	return false
}

// try begins an attempt, which comes to ended when it has.
func (l *lane) try(ctx context.Context, first uint64, ways int, attempts *sync.WaitGroup, ended chan<- *attempt) *attempt {
	over := ctx.Done()
	ctx, cancel := context.WithTimeout(ctx, attachLimit)
	a := &attempt{cancel: cancel}
	attempts.Go(func() {
		defer cancel()
		a.err = l.resume(ctx, first, ways)
		select {
		case ended <- a:
		case <-over:
		}
	})
	return a
}

// resume gives the lane a new carrier in place of the one whose epoch is first.
func (l *lane) resume(ctx context.Context, first uint64, ways int) error {
	carrier, err := l.client.ways.race(ctx, ways)
	if err != nil {
		return err
	}
	done, err := l.turn(ctx)
	if err != nil {
		carrier.Close()
		return err
	}
	defer done()
	// The attempt that had the turn before may have done it. Another hello would
	// make the server leave the carrier that works.
	if state, _ := l.State(); state.Attached && !state.Suspect && state.Epoch > first {
		return carrier.Close()
	}
	hello := l.hello()
	conn, welcome, err := l.client.attach(ctx, carrier, hello)
	if err != nil {
		return err
	}
	return l.take(conn, carrier, hello, welcome)
}

// turn waits until no other attempt talks to the server, which would have to
// choose between the two. One that gets no answer keeps the others for a while only.
func (l *lane) turn(ctx context.Context) (done func(), err error) {
	select {
	case l.saying <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var once sync.Once
	leave := func() { once.Do(func() { <-l.saying }) }
	late := time.AfterFunc(helloTurn, leave)
	return func() { late.Stop(); leave() }, nil
}

// hello is what the next carrier says to the server.
func (l *lane) hello() tunnel.Hello {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
	return tunnel.Hello{Session: l.session.id, Lane: l.number, Epoch: l.epoch, Received: l.Received()}
}
