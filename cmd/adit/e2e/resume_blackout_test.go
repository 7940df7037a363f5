//go:build linux

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestOpenConnectionsOutliveBlackouts lets nothing through for as long as a lift,
// a tunnel, or a change of trains takes.
func TestOpenConnectionsOutliveBlackouts(t *testing.T) {
	road := newRoad(t, usual(sized(50, 200)))
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{
		streams: 64,
		ahead:   sized[int64](256<<10, 0), // in full as much as fits anywhere
	})
	blackouts := []time.Duration{time.Second, 10 * time.Second}
	if *full {
		blackouts = append(blackouts, time.Minute, 5*time.Minute)
	}
	for _, d := range blackouts {
		road.waitUntilItMoves(t, l)
		time.Sleep(sized(time.Second, 10*time.Second)) // so that everything is as full as it gets
		before := road.memory(t)
		measured := make(chan [2]int64, 1)
		go func() { measured <- road.mostMemory(t, d) }()
		road.silence(d)
		back := time.Now()
		most := <-measured
		road.waitUntilItMoves(t, l)
		time.Sleep(time.Second)
		t.Logf("after %v: a stall of %v", d, l.longest(back, time.Now()).Round(time.Millisecond))
		for i, name := range []string{"server", "client"} {
			t.Logf("the %s had %.1f MiB before, %.1f at most", name, mib(before[i]), mib(most[i]))
			if *full && most[i]-before[i] > 32<<20 {
				t.Errorf("in %v the %s grew by more than 32 MiB", d, name)
			}
		}
	}
	if err := l.finish(5 * time.Minute); err != nil {
		t.Error(err)
	}
	l.checkWhole(t)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// memory is that of server and client.
func (r *road) memory(t *testing.T) (m [2]int64) {
	t.Helper()
	for i, p := range []*program{r.server, r.client} {
		n, err := p.memory()
		if err != nil {
			t.Error(err)
		}
		m[i] = n
	}
	return m
}

// mostMemory is the most that each had at any time.
func (r *road) mostMemory(t *testing.T, d time.Duration) (most [2]int64) {
	for began := time.Now(); time.Since(began) < d; time.Sleep(200 * time.Millisecond) {
		for i, n := range r.memory(t) {
			most[i] = max(most[i], n)
		}
	}
	return most
}

// memory is the program's resident memory, in bytes.
func (p *program) memory() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	line, _, _ := strings.Cut(rest, "\n")
	kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	return kib << 10, err
}
