//go:build linux

package e2e

import (
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConnectionsThatAreCutForEverAreResetAndNeverLookComplete waits for a
// client that does not come back. Whoever reads then has half a file, and must know.
func TestConnectionsThatAreCutForEverAreResetAndNeverLookComplete(t *testing.T) {
	const grace, slack = 10 * time.Second, 5 * time.Second
	c := usual(50)
	c.grace = grace
	road := newRoad(t, c)
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{
		streams: 1000,
		write:   1 << 10,
		pace:    500 * time.Millisecond,
		oneWay:  true, // so that nobody can consume another's error
	})
	waitForBytes(t, l, 2<<20)
	cut := time.Now()
	road.link.SetUp(false)
	if err := l.wait(grace + 3*slack); err != nil {
		t.Error(err)
	}
	var ends []time.Duration
	wrong := 0
	for i, s := range l.streams {
		d := &s.up
		if i%2 == 1 {
			d = &s.down
		}
		ends = append(ends, d.sent.ended.Sub(cut), d.got.ended.Sub(cut))
		sender := errors.Is(d.sent.err, unix.ECONNRESET) || errors.Is(d.sent.err, unix.EPIPE)
		if receiver := errors.Is(d.got.err, unix.ECONNRESET); sender && receiver {
			continue
		}
		if wrong++; wrong <= 5 {
			t.Errorf("stream %d: the sender sees %v, the receiver %v (nil is a clean end); want resets", i, d.sent.err, d.got.err)
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d streams do not end as resets at both ends", wrong, len(l.streams))
	}
	first, last := slices.Min(ends), slices.Max(ends)
	t.Logf("ends come from %v to %v after the cut", first.Round(time.Millisecond), last.Round(time.Millisecond))
	if first < grace-time.Second { // it may count from what came last
		t.Errorf("a connection ended after %v, within the grace of %v", first, grace)
	}
	if last > grace+slack {
		t.Errorf("a connection ended after %v, want %v at most", last, grace+slack)
	}
}
