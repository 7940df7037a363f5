//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// connect times sessions, one after the other.
func connect(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
	t, err := newTarget(ctx, echo)
	if err != nil {
		return nil, err
	}
	defer t.close()
	took, err := times(ctx, o, 0, func() error {
		c, err := e.session(ctx, t.address)
		if err != nil {
			return err
		}
		return c.Close()
	})
	return percentiles("connect", took, time.Microsecond), err
}

// echoes times small round trips, one after the other.
func echoes(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
	took, err := roundTrips(ctx, e, o, 0)
	return percentiles("echo", took, time.Microsecond), err
}

const (
	unread   = 4                    // downloads that are open and wait for their reader
	rest     = 2 * time.Millisecond // between round trips that are to be no load of their own
	patience = 5 * time.Second      // beyond the window; what takes longer hangs
)

// beside times small round trips beside a download at full speed, and some that nobody
// reads. Where a round trip does not end, or the download stands still, it takes for ever.
func beside(name figure, stalled int) func(context.Context, endpoint, options) (map[figure]float64, error) {
	return func(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
		limited, cancel := context.WithTimeout(ctx, o.window+o.window/4+patience)
		defer cancel()
		seen, err := besideDownload(limited, e, o, name, stalled)
		late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
		if late && ctx.Err() == nil {
			return map[figure]float64{name + " p50": math.Inf(1), name + " p99": math.Inf(1)}, nil
		}
		return seen, err
	}
}

func besideDownload(ctx context.Context, e endpoint, o options, name figure, stalled int) (map[figure]float64, error) {
	t, err := newTarget(ctx, pour)
	if err != nil {
		return nil, err
	}
	defer t.close()
	for range stalled {
		c, err := e.dial(ctx, t.address)
		if err != nil {
			return nil, err
		}
		defer c.Close()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var received atomic.Int64
	var seen map[figure]float64
	var downloading error
	var wg sync.WaitGroup
	wg.Go(func() {
		seen, downloading = streaming(ctx, e, o, t, 1,
			func(c net.Conn) error { return count(c, &received) }, counter{name, &received})
	})
	took, err := roundTrips(ctx, e, o, rest)
	if err != nil {
		cancel()
	}
	wg.Wait()
	if err := cmp.Or(err, downloading); err != nil {
		return nil, err
	}
	maps.Copy(seen, percentiles(name, took, time.Millisecond))
	return seen, nil
}

// roundTrips times small ones in one session.
func roundTrips(ctx context.Context, e endpoint, o options, rest time.Duration) ([]time.Duration, error) {
	t, err := newTarget(ctx, echo)
	if err != nil {
		return nil, err
	}
	defer t.close()
	c, err := e.session(ctx, t.address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf := make([]byte, smallSize)
	return times(ctx, o, rest, func() error { return ping(c, buf) })
}

// times repeats something for the window, with a rest before it, and returns how long it takes.
func times(ctx context.Context, o options, rest time.Duration, once func() error) (took []time.Duration, err error) {
	for began := time.Now(); ; {
		if rest > 0 {
			if err := pause(ctx, rest); err != nil {
				return nil, err
			}
		}
		start := time.Now()
		if start.Sub(began) > o.window+o.window/4 && len(took) > 0 {
			return took, nil
		}
		if err := once(); err != nil {
			return nil, err
		}
		if start.Sub(began) > o.window/4 {
			took = append(took, time.Since(start))
		}
	}
}

// percentiles sorts what was timed.
func percentiles(name figure, took []time.Duration, unit time.Duration) map[figure]float64 {
	if len(took) == 0 {
		return nil
	}
	slices.Sort(took)
	at := func(p int) float64 { return float64(took[(len(took)-1)*p/100]) / float64(unit) }
	return map[figure]float64{name + " p50": at(50), name + " p99": at(99)}
}
