package resume_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

const idle = 20 * time.Second

// until waits for a state of a pipe, and tells how long that took. It gives up
// after limit.
func until(t *testing.T, p *resume.Pipe, limit time.Duration, is func(resume.State) bool) time.Duration {
	t.Helper()
	began := time.Now()
	end := time.NewTimer(limit)
	defer end.Stop()
	for {
		s, changed := p.State()
		if is(s) {
			return time.Since(began)
		}
		select {
		case <-changed:
		case <-end.C:
			t.Fatalf("after %v: %+v", limit, s)
		}
	}
}

func detached(s resume.State) bool { return !s.Attached }
func suspect(s resume.State) bool  { return s.Suspect || !s.Attached }

// TestDeadPathIsNoticed says how long it takes, from the moment at which the
// path stands still without a word.
func TestDeadPathIsNoticed(t *testing.T) {
	write := func(p *resume.Pipe) { p.Write(make([]byte, 100)) }
	fill := func(p *resume.Pipe) {
		for range 100 {
			p.Write(make([]byte, 100<<10))
		}
	}
	datagrams := func(p *resume.Pipe) {
		for range 1000 {
			p.SendDatagram(nil, make([]byte, 1000))
			time.Sleep(10 * time.Millisecond)
		}
	}
	nothing := func(*resume.Pipe) {}
	for _, test := range []struct {
		name    string
		use     func(*resume.Pipe)
		path    tunneltest.Path
		suspect time.Duration
		lost    time.Duration
	}{
		{"with a few bytes outstanding", write, tunneltest.Path{}, time.Second, 5 * time.Second},
		{"while a write is stuck", fill, tunneltest.Path{Queue: 10_000}, time.Second, 5 * time.Second},
		{"while datagrams are sent", datagrams, tunneltest.Path{}, 2 * time.Second, 6 * time.Second},
		{"while datagrams are stuck", datagrams, tunneltest.Path{Queue: 2000}, 2 * time.Second, 6 * time.Second},
		{"when nothing is sent", nothing, tunneltest.Path{}, 21 * time.Second, 25 * time.Second},
		{"over a satellite", write, tunneltest.Path{Delay: 300 * time.Millisecond}, 3 * time.Second, 5 * time.Second},
		{"over a very long path", write, tunneltest.Path{Delay: 900 * time.Millisecond}, 7 * time.Second, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
				p.drain()
				link := p.attach(test.path)
				time.Sleep(4 * test.path.Delay)
				synctest.Wait()
				link.conn.Stall(true)
				p.ended.Go(func() { test.use(p.a) })
				soon := until(t, p.a, time.Minute, suspect)
				late := soon + until(t, p.a, time.Minute, detached)
				t.Logf("suspect after %v, lost after %v", soon, late)
				if soon > test.suspect || late > test.lost || soon == late {
					t.Errorf("want %v and %v", test.suspect, test.lost)
				}
				synctest.Wait()
				if why := link.served()[0]; !errors.Is(why, resume.ErrSilent) {
					t.Errorf("it was lost because: %v", why)
				}
			})
		})
	}
}
