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

// attempt is one try to give the session a carrier.
type attempt struct {
	cancel context.CancelFunc
	err    error
}

// reattach tries until the session has a carrier that works. If move is set it
// has one, and leaves it for a new one, if there is one soon.
func (s *session) reattach(ctx context.Context, move bool) {
	ctx, cancel := context.WithCancel(ctx)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	defer cancel()

	first, _ := s.State()
	ended := make(chan *attempt)
	var running []*attempt
	var p pace
	due := time.NewTimer(0)
	defer due.Stop()
	stirred := s.client.stirs.next()
	for tries := 0; ; {
		state, changed := s.State()
		works := state.Attached && !state.Suspect
		if works && (!move || state.Epoch > first.Epoch || tries >= moveTries && len(running) == 0) {
			return
		}
		if move && !works {
			move, p = false, pace{}
			due.Reset(0)
		}
		select {
		case <-due.C:
			if move && tries >= moveTries {
				break
			}
			tries++
			if len(running) == maxAttempts {
				running[0].cancel()
			}
			running = append(running, s.try(ctx, &attempts, ended))
			s.note(due, p.pause())
		case a := <-ended:
			running = slices.DeleteFunc(running, func(b *attempt) bool { return a == b })
			if s.failed(a.err, time.Since(state.Since)) {
				return
			}
		case <-changed:
		case <-stirred:
			stirred = s.client.stirs.next()
			p = pace{}
			due.Reset(0)
		case <-s.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// note plans the next attempt.
func (s *session) note(due *time.Timer, pause time.Duration) {
	due.Reset(pause)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retry = time.Now().Add(pause)
}

// failed notes how an attempt has ended, and tells whether the session is over
// with it.
func (s *session) failed(err error, away time.Duration) bool {
	refusal, refused := errors.AsType[tunnel.Refusal](err)
	switch {
	case err == nil || errors.Is(err, context.Canceled) || errors.Is(err, tunnel.ErrStale):
		return false
	case refused && !refusal.Temporary():
		s.Fail(err)
		return true
	}
	s.mu.Lock()
	same := s.failure != nil && s.failure.Error() == err.Error() && time.Since(s.logged) < sameFailure
	s.failure = err
	if !same {
		s.logged = time.Now()
	}
	retry := time.Until(s.retry)
	s.mu.Unlock()
	if !same {
		s.client.cfg.Log.Warn("cannot reach the server: connections wait", "error", err,
			"away", away.Round(time.Second), "retry_in", max(retry, 0).Round(time.Millisecond))
	}
	return false
}

// try begins an attempt, which comes to ended when it has.
func (s *session) try(ctx context.Context, attempts *sync.WaitGroup, ended chan<- *attempt) *attempt {
	over := ctx.Done()
	ctx, cancel := context.WithTimeout(ctx, attachLimit)
	a := &attempt{cancel: cancel}
	attempts.Go(func() {
		defer cancel()
		a.err = s.resume(ctx)
		select {
		case ended <- a:
		case <-over:
		}
	})
	return a
}

// resume gives the session a new carrier.
func (s *session) resume(ctx context.Context) error {
	carrier, err := s.client.cfg.Dial(ctx)
	if err != nil {
		return err
	}
	done, err := s.turn(ctx)
	if err != nil {
		carrier.Close()
		return err
	}
	defer done()
	hello := s.hello()
	conn, welcome, err := s.client.attach(ctx, carrier, hello)
	if err != nil {
		return err
	}
	return s.take(conn, carrier.Protection(), hello, welcome)
}

// turn waits until no other attempt talks to the server, which would have to
// choose between the two. One that gets no answer keeps the others for a while only.
func (s *session) turn(ctx context.Context) (done func(), err error) {
	select {
	case s.saying <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var once sync.Once
	leave := func() { once.Do(func() { <-s.saying }) }
	late := time.AfterFunc(helloTurn, leave)
	return func() { late.Stop(); leave() }, nil
}

// hello is what the next carrier says to the server.
func (s *session) hello() tunnel.Hello {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	return tunnel.Hello{Session: s.id, Epoch: s.epoch, Received: s.Received()}
}
