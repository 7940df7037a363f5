//go:build linux

package e2e

import (
	"path/filepath"
	"testing"
	"time"
)

// handheldLimit is what systems for handheld devices let a program in the
// background have, in bytes.
const handheldLimit = 50 << 20

// TestClientOverWireGuardFitsIntoAHandheld keeps 200 flows busy both ways, which
// together take half of the link, and
// watches what the client's process has resident.
func TestClientOverWireGuardFitsIntoAHandheld(t *testing.T) {
	road := newFailoverRoad(t, usual(100).Config, byWireGuard)
	// The race detector takes several times as much.
	binary := filepath.Join(t.TempDir(), "adit")
	if err := build(binary, "-race=false"); err != nil {
		t.Fatal(err)
	}
	road.client = road.launchOther(t, binary, roamerNS, "the roamer's client", "client", "run", "--dir", road.clientDir, "--door", roadDoor)
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 200, least: sized[int64](64<<10, 1<<20), pace: 500 * time.Millisecond})
	l.waitToMove(t)
	most := road.mostMemory(t, sized(5*time.Second, time.Minute))[1] // the client
	if err := l.finish(2 * time.Minute); err != nil {
		t.Fatal(err)
	}
	l.checkWhole(t)
	t.Logf("%d flows, %d MiB up and %d MiB down: %.1f MiB resident at most",
		len(l.streams), l.up.total()>>20, l.down.total()>>20, float64(most)/(1<<20))
	if most > handheldLimit {
		t.Errorf("the client has %d MiB resident, want %d at most", most>>20, handheldLimit>>20)
	}
}
