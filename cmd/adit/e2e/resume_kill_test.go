//go:build linux

package e2e

import (
	"flag"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
)

var full = flag.Bool("full", false, "run the resume tests at full size, and assert figures; without the race detector, it takes half an hour")

// sized is the size of a test.
func sized[T any](short, long T) T {
	if *full {
		return long
	}
	return short
}

// fault is something that happens to the path.
type fault struct {
	name        string
	began, back time.Time // the path was away between them
}

// TestOpenConnectionsOutliveEveryKillOfTheirCarrier kills whatever carries the
// session, in three ways in turn, and each time as soon as it moves again.
func TestOpenConnectionsOutliveEveryKillOfTheirCarrier(t *testing.T) {
	kills := sized(12, 100)
	road := newRoad(t, usual(sized(50, 100)))
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{
		streams: 64,
		least:   sized[int64](1<<20, 16<<20),
		ahead:   256 << 10,
	})
	var faults []fault
	for i := range kills {
		road.waitUntilItMoves(t, l)
		time.Sleep(time.Second) // as often as it is said to be killed
		f := fault{name: []string{"RST", "FIN", "silence"}[i%3], began: time.Now()}
		killed := 1
		switch f.name {
		case "RST":
			killed = road.link.End(wan.Reset)
		case "FIN":
			killed = road.link.End(wan.Finish)
		case "silence":
			road.silence(2 * time.Second)
		}
		if killed == 0 {
			t.Error("there was no carrier to kill")
		}
		f.back = time.Now()
		faults = append(faults, f)
	}
	road.waitUntilItMoves(t, l)
	stalls := stallsAfter(l, faults)
	if err := l.finish(5 * time.Minute); err != nil {
		t.Error(err)
	}
	l.checkWhole(t)
	t.Logf("%d MiB up and %d MiB down", l.up.total()>>20, l.down.total()>>20)
	for name, all := range stalls {
		t.Logf("stall after %s: p50 %v, p99 %v, longest %v", name, quantile(all, 0.5).Round(time.Millisecond),
			quantile(all, 0.99).Round(time.Millisecond), slices.Max(all).Round(time.Millisecond))
	}
	if all := stalls["all"]; *full && (quantile(all, 0.5) > 300*time.Millisecond || quantile(all, 0.99) > time.Second) {
		t.Error("want p50 of 300 ms and p99 of 1 s at most")
	}
}

// waitUntilItMoves waits until there is a carrier, and bytes arrive both ways.
func (r *road) waitUntilItMoves(t *testing.T, l *load) {
	t.Helper()
	up, down, limit := l.up.total(), l.down.total(), time.Now().Add(30*time.Second)
	for r.link.Connections() == 0 || l.up.total() == up || l.down.total() == down {
		if time.Now().After(limit) {
			t.Fatal("nothing moves for 30 s: the streams are stuck or broken")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stallsAfter measures how long, after the path was back, the streams still
// stood still, at worst, before the next fault.
func stallsAfter(l *load, faults []fault) map[string][]time.Duration {
	stalls := make(map[string][]time.Duration)
	for i, f := range faults {
		until := time.Now()
		if i+1 < len(faults) {
			until = faults[i+1].began
		}
		d := l.longest(f.back, until)
		stalls[f.name] = append(stalls[f.name], d)
		stalls["all"] = append(stalls["all"], d)
	}
	return stalls
}

// quantile is of durations in any order, by the nearest rank; there must be one.
func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}
