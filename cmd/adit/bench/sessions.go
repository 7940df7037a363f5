//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	workers = 32 // that open sessions at the same time
	flight  = 64 // datagrams on their way
)

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
	var used time.Duration
	for n == 0 || time.Since(began) < o.window {
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
			if used, err = e.cpu(); err != nil {
				return nil, err
			}
			began, missing = time.Now(), 1
		default:
			n, missing = n+1, 1
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	seconds := time.Since(began).Seconds()
	now, err := e.cpu()
	if err != nil {
		return nil, err
	}
	return map[figure]float64{
		"udp":           float64(n) / seconds,
		"udp" + cpuPart: float64((now - used).Microseconds()) / float64(n),
	}, nil
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
