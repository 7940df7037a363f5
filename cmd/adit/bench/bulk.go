//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const cpuPart = " CPU" // what a figure is called that is the processor time of another one

// counter is a figure, and the bytes that it comes from.
type counter struct {
	name  figure
	bytes *atomic.Int64
}

// download measures streams that a target fills.
func download(name figure, streams int) func(context.Context, endpoint, options) (map[figure]float64, error) {
	return func(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
		t, err := newTarget(ctx, pour)
		if err != nil {
			return nil, err
		}
		defer t.close()
		var received atomic.Int64
		return streaming(ctx, e, o, t, streams, func(c net.Conn) error { return count(c, &received) }, counter{name, &received})
	}
}

// upload measures streams into a target.
func upload(name figure, streams int) func(context.Context, endpoint, options) (map[figure]float64, error) {
	return func(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
		t, err := newTarget(ctx, drain)
		if err != nil {
			return nil, err
		}
		defer t.close()
		return streaming(ctx, e, o, t, streams, send, counter{name, &t.received})
	}
}

// bothWays measures one session that is busy in both directions.
func bothWays(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
	t, err := newTarget(ctx, func(t *target, c net.Conn) { _ = exchange(c, &t.received) })
	if err != nil {
		return nil, err
	}
	defer t.close()
	var received atomic.Int64
	return streaming(ctx, e, o, t, 1, func(c net.Conn) error { return exchange(c, &received) },
		counter{"both down", &received}, counter{"both up", &t.received})
}

// exchange sends and counts what comes until one of them fails, and closes c.
func exchange(c net.Conn, n *atomic.Int64) error {
	var sending error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer c.Close()
		sending = send(c)
	})
	receiving := count(c, n)
	c.Close()
	wg.Wait()
	return errors.Join(receiving, sending)
}

// streaming opens streams to t, keeps them busy by work, and measures them.
func streaming(ctx context.Context, e endpoint, o options, t *target, streams int, work func(net.Conn) error, counters ...counter) (map[figure]float64, error) {
	failed := make(chan error, streams)
	var wg sync.WaitGroup
	defer wg.Wait()
	for range streams {
		c, err := e.dial(ctx, t.address)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		wg.Go(func() { failed <- work(c) })
	}
	return moving(ctx, e, o, failed, counters)
}

// moving measures how counters grow while streams are busy. The first one names the processor
// time for all bytes.
func moving(ctx context.Context, e endpoint, o options, failed <-chan error, counters []counter) (map[figure]float64, error) {
	if err := pause(ctx, o.window/4); err != nil {
		return nil, err
	}
	used, err := e.cpu()
	if err != nil {
		return nil, err
	}
	began, before := time.Now(), sums(counters)
	moved := make([]float64, len(counters))
	total := 0.0
	for total == 0 { // more than once only where the machine stands still
		select {
		case err := <-failed:
			return nil, err
		case <-ctx.Done():
			return nil, fmt.Errorf("nothing arrives: %w", ctx.Err())
		case <-time.After(o.window):
		}
		for i, n := range sums(counters) {
			moved[i] = float64(n - before[i])
			total += moved[i]
		}
	}
	seconds := time.Since(began).Seconds()
	now, err := e.cpu()
	if err != nil {
		return nil, err
	}
	seen := map[figure]float64{counters[0].name + cpuPart: (now - used).Seconds() / (total / (1 << 30))}
	for i, c := range counters {
		seen[c.name] = moved[i] * 8 / 1e9 / seconds
	}
	return seen, nil
}

func sums(counters []counter) (bytes []int64) {
	for _, c := range counters {
		bytes = append(bytes, c.bytes.Load())
	}
	return bytes
}
