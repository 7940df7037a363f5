//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
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

// enter starts contenders. Those that fail are not measured; it returns all errors.
func (b *bench) enter(ctx context.Context, s *stage, chosen []contender) (errs error) {
	for _, c := range chosen {
		fmt.Fprintln(b.progress, "start", c.name)
		e, err := c.enter(ctx, s)
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("start %s: %w", c.name, err))
			continue
		}
		b.endpoints = append(b.endpoints, e)
	}
	return errs
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
			{name: "up1", run: upload("up1", 1)},
			{name: "down8", run: download("down8", 8)},
			{name: "up8", run: upload("up8", 8)},
			{name: "both ways", run: bothWays},
			{name: "connect", run: connect},
			{name: "echo", run: echoes},
			{name: "loaded", run: beside("loaded", 0), more: patience},
			{name: "stalled", run: beside("stalled", unread), more: patience},
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
