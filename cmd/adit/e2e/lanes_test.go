//go:build linux

package e2e

import (
	"encoding/json"
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
	if c.Loss > 0 {
		becomeOrdinary(t)
	}
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
	r.waitForLanes(t, lanes)
	return r
}

// waitForLanes waits until the client knows that each lane has a carrier.
func (r *road) waitForLanes(t *testing.T, lanes int) {
	t.Helper()
	until(t, "a session with all its lanes", func() bool {
		var report struct {
			Client struct {
				Lanes    int `json:"lanes"`
				Detached int `json:"lanes_detached"`
			} `json:"client"`
		}
		if err := json.Unmarshal([]byte(adit(t, roamerNS, "status", "--json", "--dir", r.clientDir)), &report); err != nil {
			t.Fatal(err)
		}
		return report.Client.Lanes == lanes && report.Client.Detached == 0
	})
}

// becomeOrdinary makes TCP take a lost packet for a full path, as it does on most
// systems, in connections that are made from now on.
func becomeOrdinary(t *testing.T) {
	t.Helper()
	const control = "/proc/sys/net/ipv4/tcp_congestion_control"
	for _, ns := range []namespace{roamerNS, serverNS} {
		err := ns.do(func() error {
			before, err := os.ReadFile(control)
			if err != nil {
				return err
			}
			t.Cleanup(func() {
				_ = ns.do(func() error { return os.WriteFile(control, before, 0) }) // one of them ends before
			})
			return os.WriteFile(control, []byte("reno"), 0)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
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
	for _, loss := range sized([]float64{0.005}, []float64{0, 0.001, 0.005, 0.02}) {
		var one float64
		for _, lanes := range sized([]int{1, 4}, []int{1, 2, 4, 8}) {
			t.Run(fmt.Sprintf("loss %g, lanes %d", loss, lanes), func(t *testing.T) {
				c := usual(100)
				c.Delay, c.Queue, c.Loss = 50*time.Millisecond, 1<<20, loss
				road := newWideRoad(t, c, lanes)
				l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 8, ahead: 128 << 10})
				waitForBytes(t, l, 1<<20)
				time.Sleep(2 * time.Second) // for the windows to open
				rate := l.goodput(took) * 8 / 1e6
				if lanes == 1 {
					one = rate
				}
				t.Logf("8 transfers each way: %.1f Mbit/s, %.1f times as much as one lane", rate, rate/one)
				if err := l.finish(2 * time.Minute); err != nil {
					t.Fatal(err)
				}
				l.checkWhole(t)
			})
		}
	}
}
