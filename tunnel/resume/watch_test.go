package resume_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
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
			sendDatagram(p, nil, make([]byte, 1000))
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
		{"over a satellite", write, tunneltest.Path{Delay: 300 * time.Millisecond}, 2 * time.Second, 5 * time.Second},
		{"over a very long path", write, tunneltest.Path{Delay: 900 * time.Millisecond}, 4 * time.Second, 10 * time.Second},
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

// watchFor tells what a pipe says of its carrier in a span of time: how often it
// was suspect, and how often lost.
func watchFor(p *resume.Pipe, span time.Duration) (suspected, lost int) {
	end := time.NewTimer(span)
	defer end.Stop()
	before, _ := p.State()
	for {
		s, changed := p.State()
		if s.Suspect && !before.Suspect {
			suspected++
		}
		if !s.Attached && before.Attached {
			lost++
		}
		before = s
		select {
		case <-changed:
		case <-end.C:
			return suspected, lost
		}
	}
}

func TestLongPathIsNotSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
		p.drain()
		for range 3 {
			p.attach(tunneltest.Path{Delay: 900 * time.Millisecond, Rate: 100_000, Queue: 1 << 20})
			p.ended.Go(func() { p.a.Write(make([]byte, 500_000)) })
			if suspected, lost := watchFor(p.a, time.Minute); suspected+lost > 0 {
				t.Errorf("suspect %d times, lost %d times", suspected, lost)
			}
			p.attach(tunneltest.Path{}) // a fast one between them teaches another round trip
			if suspected, lost := watchFor(p.a, time.Minute); suspected+lost > 0 {
				t.Errorf("the fast path was suspect %d times, lost %d times", suspected, lost)
			}
		}
	})
}

func TestPathThatFallsSilentAgainIsSuspectAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
		p.drain()
		link := p.attach(tunneltest.Path{})
		synctest.Wait()
		for range 5 {
			link.conn.Stall(true)
			p.ended.Go(func() { p.a.Write(make([]byte, 100)) })
			if took := until(t, p.a, time.Minute, suspect); took > 3*time.Second {
				t.Errorf("suspect after %v", took)
			}
			link.conn.Stall(false)
			until(t, p.a, time.Minute, func(s resume.State) bool { return !s.Suspect })
		}
	})
}

// TestPeerThatIsHeardButDoesNotAnswerStaysSuspect is about a path that comes back
// for what the peer sends before it does for what is sent to the peer.
func TestPeerThatIsHeardButDoesNotAnswerStaysSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
		p.drain()
		link := p.attach(tunneltest.Path{})
		synctest.Wait()
		link.conn.Stall(true)
		p.ended.Go(func() { p.a.Write(make([]byte, 100)) })
		until(t, p.a, time.Minute, suspect)
		link.conn.Stall(false)
		link.conn.StallWrites(true)
		before := p.a.Received()
		for range 10 {
			p.b.Write(make([]byte, 100))
			time.Sleep(100 * time.Millisecond)
			if s, _ := p.a.State(); !s.Suspect || !s.Attached {
				t.Fatalf("while the peer is heard: %+v", s)
			}
		}
		if p.a.Received() != before+1000 {
			t.Error("the peer was not heard")
		}
		link.conn.StallWrites(false)
		until(t, p.a, time.Second, func(s resume.State) bool { return !s.Suspect })
	})
}

// TestPatienceIsForPathsThatNeverWorked is about a client that loses one path
// after another, each of which has been of use.
func TestPatienceIsForPathsThatNeverWorked(t *testing.T) {
	for _, test := range []struct {
		name string
		use  func(p *resume.Pipe)
	}{
		{"for a minute", func(*resume.Pipe) { time.Sleep(time.Minute) }},
		{"for some bytes", func(p *resume.Pipe) { p.Write(make([]byte, 100)); time.Sleep(time.Second) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
				p.drain()
				for range 10 {
					link := p.attach(tunneltest.Path{})
					test.use(p.a)
					link.conn.Stall(true)
					p.a.Probe()
					if took := until(t, p.a, time.Minute, detached); took > 5*time.Second {
						t.Errorf("lost after %v", took)
					}
				}
			})
		})
	}
}

func TestPatienceEndsWithAPathThatWorks(t *testing.T) {
	for _, test := range []struct {
		name string
		peer time.Duration // its Idle: the end with the shorter one asks, and the other never does
		use  func(*resume.Pipe)
	}{
		{"and we ask", 2 * idle, func(p *resume.Pipe) { p.Write([]byte("hello")) }},
		{"and the peer asks", idle / 2, (*resume.Pipe).Probe},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
				p.b = resume.New(resume.Config{Grace: time.Hour, Idle: test.peer})
				p.drain()
				p.attach(tunneltest.Path{})
				p.meet()
				var took time.Duration
				for range 6 {
					link := p.attach(tunneltest.Path{Delay: time.Hour})
					test.use(p.a)
					took = until(t, p.a, time.Hour, detached)
					link.conn.Cut()
				}
				if took < 30*time.Second {
					t.Errorf("the sixth path was given up after %v", took)
				}
				link := p.attach(tunneltest.Path{})
				time.Sleep(2 * time.Minute)
				link.conn.Stall(true)
				p.a.Probe()
				if took := until(t, p.a, time.Hour, detached); took > 5*time.Second {
					t.Errorf("one that had worked was lost after %v", took)
				}
			})
		})
	}
}

// slow is 8 kbit/s.
var slow = tunneltest.Path{Rate: 1000, Delay: 20 * time.Millisecond, Queue: 1000}

func TestVerySlowPathIsNotTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
		p.drain()
		p.attach(slow)
		p.ended.Go(func() { p.a.Write(make([]byte, 300_000)) })
		p.ended.Go(func() { p.b.Write(make([]byte, 300_000)) })
		if _, lost := watchFor(p.a, 4*time.Minute); lost > 0 {
			t.Errorf("it was lost %d times", lost)
		}
		if got := p.b.Received(); got < 200_000 {
			t.Errorf("%d bytes arrived", got)
		}
	})
}

// TestVerySlowPathIsNotTakenForDeadWhileItRepeats is about the rest of a frame
// that the peer has had already: it brings nothing new, for half a minute.
func TestVerySlowPathIsNotTakenForDeadWhileItRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
		p.drain()
		p.attach(slow)
		p.ended.Go(func() { p.a.Write(make([]byte, 40_000)) })
		time.Sleep(35 * time.Second)
		p.attach(slow)
		if _, lost := watchFor(p.a, time.Minute); lost > 0 || p.b.Received() != 40_000 {
			t.Errorf("it was lost %d times; %d bytes arrived", lost, p.b.Received())
		}
	})
}

// TestPathThatOnlyTakesWholeRecordsArrivesInTheEnd is about TLS, of which nothing can be
// read before a record is there: 16 s on this path.
func TestPathThatOnlyTakesWholeRecordsArrivesInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
		p.drain()
		const total = 100_000
		p.ended.Go(func() { p.a.Write(make([]byte, total)) })
		began := time.Now()
		carriers := 0
		for p.b.Received() < total && time.Since(began) < time.Hour {
			if state, _ := p.a.State(); state.Attached {
				time.Sleep(time.Second)
				continue
			}
			a, b := tunneltest.Link(slow)
			ra, rb := p.a.Received(), p.b.Received()
			p.epoch++
			p.carry(p.b, &records{Conn: b}, ra)
			p.carry(p.a, &records{Conn: a}, rb)
			carriers++
		}
		if took := time.Since(began); took > 4*time.Minute || carriers > 8 {
			t.Errorf("%d bytes of %d in %v over %d carriers", p.b.Received(), total, took, carriers)
		}
	})
}

// TestVerySlowPathArrivesThoughEveryCarrierIsSuspect is about a client that goes
// over to another carrier as soon as one is suspect: each begins all over with
// what the one before had under way.
func TestVerySlowPathArrivesThoughEveryCarrierIsSuspect(t *testing.T) {
	for _, rate := range []int{500, 1000, 2000, 4000, 8000} {
		for _, dial := range []time.Duration{time.Second, 3 * time.Second, 6 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
				p.drain()
				const total = 200_000
				p.ended.Go(func() { p.a.Write(make([]byte, total)) })
				path := tunneltest.Path{Rate: rate, Delay: 20 * time.Millisecond, Queue: 1000}
				began := time.Now()
				for first := true; p.b.Received() < total && time.Since(began) < time.Hour; first = false {
					if state, _ := p.a.State(); !first && !suspect(state) {
						time.Sleep(100 * time.Millisecond)
						continue
					}
					time.Sleep(dial)
					if state, _ := p.a.State(); !first && !suspect(state) {
						continue
					}
					a, b := tunneltest.Link(path)
					ra, rb := p.a.Received(), p.b.Received()
					p.epoch++
					p.carry(p.b, &records{Conn: b, grow: true}, ra)
					p.carry(p.a, &records{Conn: a, grow: true}, rb)
				}
				ideal := time.Duration(total/rate) * time.Second
				took := time.Since(began)
				t.Logf("%d bytes/s, %v to dial: %v of %v", rate, dial, took, ideal)
				if p.b.Received() < total || took > 4*ideal+time.Minute {
					t.Errorf("%d bytes/s, %v to dial: %d bytes in %v", rate, dial, p.b.Received(), took)
				}
			})
		}
	}
}

// records is a conn whose bytes arrive in records.
type records struct {
	net.Conn
	grow bool // the first are small
	sent int
	rest []byte
	in   []byte // of the record that is arriving
	head [2]byte
}

func (r *records) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		k := min(len(p), 16<<10)
		if r.grow { // as crypto/tls does it
			r.sent++
			k = min(k, r.sent*1180)
		}
		record := binary.BigEndian.AppendUint16(nil, uint16(k))
		if _, err := r.Conn.Write(append(record, p[:k]...)); err != nil {
			return n, err
		}
		p, n = p[k:], n+k
	}
	return n, nil
}

func (r *records) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if _, err := io.ReadFull(r.Conn, r.head[:]); err != nil {
			return 0, err
		}
		r.in = make([]byte, binary.BigEndian.Uint16(r.head[:]))
		if _, err := io.ReadFull(r.Conn, r.in); err != nil {
			return 0, err
		}
		r.rest = r.in
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
