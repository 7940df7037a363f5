package client

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// When to try which way to the server.
const (
	headStart   = 300 * time.Millisecond // of a way before the next joins it
	doubt       = time.Minute            // how long a way comes last whose carrier fell silent soon
	betterPause = 30 * time.Second       // before a better way is tried again, at first
	betterMost  = 10 * time.Minute
)

// ways are the ways to the server, the best first.
type ways struct {
	dial []Dialer

	mu       sync.Mutex
	doubtful []time.Time // until when each is
}

func newWays(cfg Config) *ways {
	dial := append(append([]Dialer(nil), cfg.Better...), cfg.Dial)
	return &ways{dial: dial, doubtful: make([]time.Time, len(dial))}
}

// order gives the first n ways in the order in which to try them.
func (w *ways) order(n int) []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var first, last []int
	for i := range n {
		if time.Now().Before(w.doubtful[i]) {
			last = append(last, i)
		} else {
			first = append(first, i)
		}
	}
	return append(first, last...)
}

// fail notes that a carrier of a way fell silent although it had begun well.
func (w *ways) fail(way int, lived time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if lived < doubt {
		w.doubtful[way] = time.Now().Add(doubt)
	}
}

// reached is a carrier, the way it came, and why none of the better ones.
type reached struct {
	Carrier
	way int
	why error // nil: it is the best; or no better one has answered in time
}

// race dials by the first n ways: one after the other, each as soon as the one
// before has failed or has had its head start. The first carrier wins, the others are
// closed, and all dials have ended when race returns.
func (w *ways) race(ctx context.Context, n int) (reached, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		reached
		err error
	}
	results := make(chan result, n)
	var dials sync.WaitGroup
	defer func() {
		cancel()
		dials.Wait()
		close(results)
		for late := range results {
			if late.Carrier != nil {
				late.Close()
			}
		}
	}()
	order := w.order(n)
	errs := make([]error, n)
	next := time.NewTimer(0)
	defer next.Stop()
	for started, failed := 0, 0; ; {
		select {
		case <-next.C:
			if started < n {
				way := order[started]
				started++
				next.Reset(headStart)
				dials.Go(func() {
					c, err := w.dial[way](ctx)
					results <- result{reached{Carrier: c, way: way}, err}
				})
			}
		case r := <-results:
			if r.err == nil {
				r.why = joined(errs[:r.way])
				return r.reached, nil
			}
			errs[r.way] = r.err
			if failed++; failed == n {
				return reached{}, joined(errs)
			}
			next.Reset(0)
		}
	}
}

// joined makes one error, in one line, of those there are.
func joined(errs []error) (all error) {
	for _, err := range errs {
		switch {
		case all == nil:
			all = err
		case err != nil:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// better says when to try a better way again: ever more rarely while there is
// none. Its zero value begins.
type better struct {
	last time.Duration
	at   time.Time // zero: not planned
}

// due gives a channel that gets something when it is time; nil if the way in
// use is the best.
func (b *better) due(way int) (c <-chan time.Time, stop func() bool) {
	if way == 0 {
		*b = better{}
		return nil, func() bool { return true }
	}
	if b.at.IsZero() {
		b.last = min(max(2*b.last, betterPause), betterMost)
		b.at = time.Now().Add(b.last)
	}
	t := time.NewTimer(time.Until(b.at))
	return t.C, t.Stop
}
