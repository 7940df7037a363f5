//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	workers = 32 // that open sessions at the same time
	flight  = 64 // datagrams on their way
)

// bench has endpoints measured, and keeps what comes out.
type bench struct {
	options
	endpoints []endpoint
	progress  io.Writer
	values    map[string]map[figure][]float64 // by endpoint; a value for each round
}

// figure names a value that is measured.
type figure string

// measurement opens a target, reaches it through the endpoint, and returns what it saw.
type measurement struct {
	name string
	run  func(context.Context, endpoint, options) (map[figure]float64, error)
	udp  bool
	more time.Duration // that it may take
}

// measure lets the endpoints take turns. It goes on where one fails, and returns all
// errors at the end.
func (b *bench) measure(ctx context.Context) (err error) {
	b.values = make(map[string]map[figure][]float64)
	// Memory first: later on processes hold what other work has left.
	err = b.turn(ctx, "idle sessions", measurement{
		name: "idle sessions", run: idle, more: 2*b.settle + time.Duration(b.idle)*50*time.Millisecond,
	})
	for round := range b.rounds {
		for _, m := range []measurement{
			{name: "down1", run: download("down1", 1)},
			{name: "up1", run: upload},
			{name: "down8", run: download("down8", 8)},
			{name: "connect", run: connect},
			{name: "echo", run: echoes},
			{name: "rate", run: rate},
			{name: "udp", run: datagramEchoes, udp: true},
		} {
			if err := ctx.Err(); err != nil {
				return err
			}
			err = errors.Join(err, b.turn(ctx, fmt.Sprintf("round %d of %d, %s", round+1, b.rounds, m.name), m))
		}
	}
	return err
}

// turn makes one measurement at all endpoints.
func (b *bench) turn(ctx context.Context, title string, m measurement) (errs error) {
	fmt.Fprintln(b.progress, title)
	for _, e := range b.endpoints {
		if m.udp && !e.udp {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, 2*b.window+m.more+stepTimeout)
		seen, err := m.run(limited, e, b.options)
		cancel()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s, %s: %w", title, e.name, err))
			continue
		}
		if b.values[e.name] == nil {
			b.values[e.name] = make(map[figure][]float64)
		}
		for f, v := range seen {
			b.values[e.name][f] = append(b.values[e.name][f], v)
		}
	}
	return errs
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// cpu is the time that both sides have used.
func (e endpoint) cpu() (time.Duration, error) {
	u, err := usageOf(slices.Concat(e.client, e.server))
	return u.cpu, err
}

// moving measures how a counter of bytes grows while streams are busy.
func moving(ctx context.Context, e endpoint, o options, name figure, total *atomic.Int64, failed <-chan error) (map[figure]float64, error) {
	if err := pause(ctx, o.window/4); err != nil {
		return nil, err
	}
	used, err := e.cpu()
	if err != nil {
		return nil, err
	}
	began, before := time.Now(), total.Load()
	bytes := int64(0)
	for bytes == 0 { // more than once only where the machine stands still
		select {
		case err := <-failed:
			return nil, err
		case <-ctx.Done():
			return nil, fmt.Errorf("nothing arrives: %w", ctx.Err())
		case <-time.After(o.window):
		}
		bytes = total.Load() - before
	}
	seconds := time.Since(began).Seconds()
	now, err := e.cpu()
	if err != nil {
		return nil, err
	}
	return map[figure]float64{
		name:           float64(bytes) * 8 / 1e9 / seconds,
		name + cpuPart: (now - used).Seconds() / (float64(bytes) / (1 << 30)),
	}, nil
}

const cpuPart = " CPU" // what a figure is called that is the processor time of another one

// download measures streams that a target fills.
func download(name figure, streams int) func(context.Context, endpoint, options) (map[figure]float64, error) {
	return func(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
		t, err := newTarget(ctx, pour)
		if err != nil {
			return nil, err
		}
		defer t.close()
		var received atomic.Int64
		return streaming(ctx, e, o, t, streams, name, &received, func(c net.Conn) error { return count(c, &received) })
	}
}

// upload measures a stream into a target.
func upload(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
	t, err := newTarget(ctx, drain)
	if err != nil {
		return nil, err
	}
	defer t.close()
	return streaming(ctx, e, o, t, 1, "up1", &t.received, send)
}

// streaming opens streams to t, keeps them busy by work, and measures them.
func streaming(ctx context.Context, e endpoint, o options, t *target, streams int, name figure, total *atomic.Int64, work func(net.Conn) error) (map[figure]float64, error) {
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
	return moving(ctx, e, o, name, total, failed)
}

// connect times sessions, one after the other.
func connect(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
	t, err := newTarget(ctx, echo)
	if err != nil {
		return nil, err
	}
	defer t.close()
	return times("connect", o, func() error {
		c, err := e.session(ctx, t.address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// echoes times small round trips, one after the other.
func echoes(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
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
	return times("echo", o, func() error { return ping(c, buf) })
}

// times repeats something for the window, and returns how long it takes, in microseconds.
func times(name figure, o options, once func() error) (map[figure]float64, error) {
	var took []time.Duration
	for began := time.Now(); ; {
		start := time.Now()
		if start.Sub(began) > o.window+o.window/4 && len(took) > 0 {
			break
		}
		if err := once(); err != nil {
			return nil, err
		}
		if start.Sub(began) > o.window/4 {
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	at := func(p int) float64 { return float64(took[(len(took)-1)*p/100]) / float64(time.Microsecond) }
	return map[figure]float64{name + " p50": at(50), name + " p99": at(99)}, nil
}

// rate counts sessions that are opened by several workers, and closed after a byte.
func rate(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
	t, err := newTarget(ctx, echo)
	if err != nil {
		return nil, err
	}
	defer t.close()
	used, err := e.cpu()
	if err != nil {
		return nil, err
	}
	var sessions atomic.Int64
	failed := make(chan error, workers)
	began := time.Now()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				c, err := e.session(ctx, t.address)
				if err != nil {
					failed <- err
					return
				}
				c.Close()
				sessions.Add(1)
				if time.Since(began) >= o.window {
					return
				}
			}
		})
	}
	wg.Wait()
	seconds := time.Since(began).Seconds()
	select {
	case err := <-failed:
		return nil, err
	default:
	}
	now, err := e.cpu()
	if err != nil {
		return nil, err
	}
	n := float64(sessions.Load())
	return map[figure]float64{"rate": n / seconds, "rate" + cpuPart: float64((now - used).Microseconds()) / n}, nil
}

// datagramEchoes counts small datagrams that come back, with some always on their way.
func datagramEchoes(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
	t, err := newDatagramTarget()
	if err != nil {
		return nil, err
	}
	defer t.close()
	d, err := e.associate(ctx, t.address)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	const patience = 200 * time.Millisecond // then what is missing counts as lost
	packet, buf := append(d.header, make([]byte, smallSize)...), make([]byte, 2048)
	missing, n := flight, 0
	var began time.Time // when the first one was back
	for began.IsZero() || time.Since(began) < o.window {
		for ; missing > 0; missing-- {
			if _, err := d.Write(packet); err != nil {
				return nil, err
			}
		}
		_ = d.SetReadDeadline(time.Now().Add(patience))
		switch _, err := d.Read(buf); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			missing = flight
		case err != nil:
			return nil, err
		case began.IsZero():
			began, missing = time.Now(), 1
		default:
			n, missing = n+1, 1
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return map[figure]float64{"udp": float64(n) / time.Since(began).Seconds()}, nil
}

// idle measures by how much memory grows with sessions that say nothing, in KiB for each.
func idle(ctx context.Context, e endpoint, o options) (map[figure]float64, error) {
	if e.door == "" {
		return nil, nil
	}
	t, err := newTarget(ctx, echo)
	if err != nil {
		return nil, err
	}
	defer t.close()
	memory := func() (client, server usage, err error) {
		if err := pause(ctx, o.settle); err != nil {
			return usage{}, usage{}, err
		}
		if client, err = usageOf(e.client); err != nil {
			return usage{}, usage{}, err
		}
		server, err = usageOf(e.server)
		return client, server, err
	}
	client, server, err := memory()
	if err != nil {
		return nil, err
	}
	for i := range o.idle {
		c, err := e.session(ctx, t.address)
		if err != nil {
			return nil, fmt.Errorf("session %d of %d: %w", i+1, o.idle, err)
		}
		defer c.Close()
	}
	laterClient, laterServer, err := memory()
	if err != nil {
		return nil, err
	}
	each := func(before, after usage) float64 { return float64(after.rss-before.rss) / 1024 / float64(o.idle) }
	return map[figure]float64{"idle client": each(client, laterClient), "idle server": each(server, laterServer)}, nil
}
