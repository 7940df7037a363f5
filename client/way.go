package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// When to try which way to the server.
const (
	headStart   = 300 * time.Millisecond // of a way before the next joins it
	doubtLeast  = time.Minute            // how long a way comes last whose carrier fell silent soon; longer each time
	betterPause = 5 * time.Second        // before a better way is tried again, at first
	betterMost  = 10 * time.Minute       // of both
)

// errDoubtful is why a way was not tried.
var errDoubtful = errors.New("a better one fell silent soon after it was taken")

// ways are the ways to the server, the best first.
type ways struct {
	dial []Dialer

	mu     sync.Mutex
	doubts []doubt // of each
}

// doubt is that of a way which begins well, and then carries nothing.
type doubt struct {
	until  time.Time
	last   time.Duration // how long it was the last time
	failed time.Time     // when a carrier fell silent last
}

func newWays(cfg Config) *ways {
	dial := append(append([]Dialer(nil), cfg.Better...), cfg.Dial)
	return &ways{dial: dial, doubts: make([]doubt, len(dial))}
}

// order gives the first n ways in the order in which to try them, and why the last
// of them come last: the very last is the one that fell silent last.
func (w *ways) order(n int) (order []int, why []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	why = make([]error, n)
	var last []int
	for i := range n {
		if time.Now().Before(w.doubts[i].until) {
			last = append(last, i)
			why[i] = errDoubtful
		} else {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(last, func(a, b int) int { return w.doubts[a].failed.Compare(w.doubts[b].failed) })
	return append(order, last...), why
}

// fail notes that a carrier of a way fell silent although it had begun well.
// Those that do so together, as all lanes', count as one.
func (w *ways) fail(way int, lived time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, now := &w.doubts[way], time.Now()
	d.failed = now
	switch {
	case lived >= max(d.last, doubtLeast):
		*d = doubt{}
	case !now.Before(d.until):
		d.last = min(max(2*d.last, doubtLeast), betterMost)
		d.until = now.Add(d.last)
	}
}

// forgive ends all doubts: the network is another one.
func (w *ways) forgive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.doubts)
}

// hopeful says from when on one of the first n ways is not in doubt.
func (w *ways) hopeful(n int) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.MinFunc(w.doubts[:n], func(a, b doubt) int { return a.until.Compare(b.until) }).until
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
	order, errs := w.order(n)
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
func (b *better) due(w *ways, way int) (c <-chan time.Time, stop func() bool) {
	if way == 0 {
		*b = better{}
		return nil, func() bool { return true }
	}
	if b.at.IsZero() {
		b.last = min(max(2*b.last, betterPause), betterMost)
		b.at = time.Now().Add(b.last)
	}
	if hopeful := w.hopeful(way); hopeful.After(b.at) {
		b.at = hopeful
	}
	t := time.NewTimer(time.Until(b.at))
	return t.C, t.Stop
}
