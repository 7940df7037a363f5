//go:build linux

package e2e

import (
	"net"
	"testing"
	"time"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
)

// The tests here look at the tools of the other resume tests: without adit, each
// fault must be seen for what it is, or the others prove nothing.

func TestLinkMakesPlainConnectionsFail(t *testing.T) {
	road := &road{link: layRoad(t, usual(100).Config)}
	for name, test := range map[string]struct {
		fault func()
		reset bool
		whole bool
	}{
		"reset":   {func() { road.link.End(wan.Reset) }, true, false},
		"finish":  {func() { road.link.End(wan.Finish) }, false, false},
		"silence": {func() { road.silence(time.Second) }, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := serverNS.listen(net.JoinHostPort(roadside4, "0"))
			if err != nil {
				t.Fatal(err)
			}
			l := startLoad(t, ln, road.dial, loadConfig{streams: 8, ahead: 1 << 20})
			waitForBytes(t, l, 4<<20)
			began := time.Now()
			test.fault()
			if test.whole {
				if err := l.finish(time.Minute); err != nil {
					t.Fatal(err)
				}
				l.checkWhole(t)
				if d := l.longest(began, time.Now()); d < time.Second {
					t.Errorf("the longest gap is %v, want more than a second", d)
				}
				return
			}
			for _, s := range l.streams {
				_ = s.app.SetWriteDeadline(time.Now().Add(time.Second)) // after a FIN nothing answers
				_ = s.target.SetWriteDeadline(time.Now().Add(time.Second))
			}
			if err := l.finish(time.Minute); err != nil {
				t.Fatal(err)
			}
			for i, s := range l.streams {
				if app, target := s.resets(); app != test.reset || target != test.reset {
					t.Errorf("stream %d: app sees a reset: %v, target: %v; want %v", i, app, target, test.reset)
				}
				if !test.reset && (s.up.got.err != nil || s.down.got.err != nil) {
					t.Errorf("stream %d: readers see %v and %v, want an end", i, s.up.got.err, s.down.got.err)
				}
				if s.up.check("up") == nil || s.down.check("down") == nil {
					t.Errorf("stream %d looks whole", i)
				}
			}
		})
	}
}

func TestEveryByteArrivesThroughAWideNetwork(t *testing.T) {
	road := newRoad(t, usual(100))
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 64, least: 512 << 10, ahead: 256 << 10})
	waitForBytes(t, l, 4<<20)
	t.Logf("%.1f MB/s arrive, of 25", l.goodput(2*time.Second)/1e6)
	if n := road.session(t).Streams; n != 64 {
		t.Errorf("the server tells of %d streams, want 64", n)
	}
	if err := l.finish(time.Minute); err != nil {
		t.Fatal(err)
	}
	l.checkWhole(t)
}

// waitForBytes waits until so many more have arrived, both ways together.
func waitForBytes(t *testing.T, l *load, n int64) {
	t.Helper()
	want, limit := l.moved()+n, time.Now().Add(time.Minute)
	for l.moved() < want {
		if time.Now().After(limit) {
			t.Fatal("no bytes arrive")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
