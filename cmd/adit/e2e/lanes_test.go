//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
)

// newWideRoad is newRoad with a client that has several lanes, all of which are
// there.
func newWideRoad(t *testing.T, c roadConfig, lanes int) *road {
	t.Helper()
	r := newEmptyRoad(t, c)
	r.clientDir = shared.path("road-lanes")
	r.join(t, r.clientDir)
	file := filepath.Join(r.clientDir, "client.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, tables, _ := strings.Cut(string(text), "[server]")
	config := fmt.Sprintf("lanes = %d\n[server]%s", lanes, tables)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r.client = r.launch(t, roamerNS, "the roamer's client", "client", "run", "--dir", r.clientDir, "--door", roadDoor)
	until(t, "a session with all its lanes", func() bool { return r.link.Connections() == lanes })
	return r
}

// TestLaneThatIsKilledHoldsUpItsOwnStreamsAlone kills one carrier of four again
// and again: that which has just come back.
func TestLaneThatIsKilledHoldsUpItsOwnStreamsAlone(t *testing.T) {
	const lanes, streams = 4, 32
	kills := sized(10, 50)
	road := newWideRoad(t, usual(100), lanes)
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{
		streams: streams,
		least:   512 << 10,
		write:   4 << 10, // all together are far from filling the path
		pace:    50 * time.Millisecond,
	})
	for i := range kills {
		waitForBytes(t, l, 1<<20)
		if road.link.EndNewest([]wan.Ending{wan.Reset, wan.Finish}[i%2]) != 1 {
			t.Error("there was no carrier to kill")
		}
		until(t, "another carrier", func() bool { return road.link.Connections() == lanes })
	}
	if err := l.finish(time.Minute); err != nil {
		t.Fatal(err)
	}
	l.checkWhole(t)
	var stalls []time.Duration
	for _, s := range l.streams {
		stalls = append(stalls, max(s.up.got.stall, s.down.got.stall).Round(time.Millisecond))
	}
	slices.Sort(stalls)
	t.Logf("%d kills; the longest stall of each stream: %v", kills, stalls)
	// A lane has a few streams more than another if they are opened all at once.
	if others := stalls[:streams-streams/lanes-2]; others[len(others)-1] > time.Second {
		t.Errorf("streams of other lanes stood still: %v", others)
	}
}

// TestLanesGainOnALossyPath prints what they gain. On a lossy path TCP makes each
// connection slow, and a lost packet holds up all that came after it.
func TestLanesGainOnALossyPath(t *testing.T) {
	took := sized(4*time.Second, 20*time.Second)
	for _, loss := range []float64{0, 0.002, 0.01} {
		var one float64
		for _, lanes := range []int{1, 2, 4, 8} {
			t.Run(fmt.Sprintf("loss %g, lanes %d", loss, lanes), func(t *testing.T) {
				c := usual(100)
				c.Delay, c.Queue, c.Loss = 50*time.Millisecond, 1<<20, loss
				road := newWideRoad(t, c, lanes)
				l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 8, ahead: 2 << 20, oneWay: true})
				waitForBytes(t, l, 1<<20)
				time.Sleep(2 * time.Second) // for the windows to open
				rate := l.goodput(took) * 8 / 1e6
				if lanes == 1 {
					one = rate
				}
				t.Logf("%.1f Mbit/s, %.1f times as much as one lane", rate, rate/one)
				if err := l.finish(time.Minute); err != nil {
					t.Fatal(err)
				}
				l.checkWhole(t)
			})
		}
	}
}
