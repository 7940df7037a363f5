package resume_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// clean is a wire with which nothing is wrong.
func (s *schedule) clean() *wire { return s.lay(lane{room: 1 << 16}, lane{room: 1 << 16}) }

// wire is one with which anything may be wrong, once.
func (s *schedule) wire() *wire {
	if s.IntN(3) == 0 {
		return s.clean()
	}
	small := len(s.ends[0].out)+len(s.ends[1].out) < 3000
	var lanes [2]lane
	for i := range lanes {
		l := lane{room: []int{100, 4096, 1 << 16, 1 << 24}[s.IntN(4)]}
		if small && !s.chat && s.IntN(4) == 0 {
			l.room, l.chunk = 1+s.IntN(10), s.IntN(3)
		}
		if s.IntN(4) == 0 {
			l.delay = time.Duration(1+s.IntN(500)) * time.Millisecond
			if l.room < 100 {
				l.delay = min(l.delay, 20*time.Millisecond) // 50 bytes a second
			}
			s.slow = true
		}
		if s.IntN(2) == 0 {
			l.fault, l.at = fault(s.IntN(int(faults))), s.IntN(60)
			if s.IntN(2) == 0 {
				l.at = s.IntN(len(s.ends[i].out) + 100)
			}
		}
		lanes[i] = l
	}
	return s.lay(lanes[0], lanes[1])
}

func (s *schedule) lay(up, down lane) *wire {
	w := newWire(up, down, s.fail)
	s.wires = append(s.wires, w)
	s.note("wire", up, down)
	return w
}

// attach does what a client and a server do to give the pipe a carrier, or what
// is left of it when something goes wrong.
func (s *schedule) attach(how int, w *wire) {
	client, server := s.ends[0], s.ends[1]
	s.epoch++
	epoch := s.epoch
	hello := client.Received()
	s.note("attach", how, epoch, hello)
	answer, err := server.Judge(epoch, hello)
	if err != nil {
		s.excuse(server, epoch, err)
		return
	}
	arrive := func() { s.join(server, w, epoch, hello) }
	answered := func() { s.join(client, w, epoch, answer) }
	lost := func(side int) { // one end never comes to use the wire
		if s.IntN(2) == 0 {
			wireEnd{w, side}.Close()
		}
	}
	switch how {
	case 0, 1:
		arrive()
		answered()
	case 2: // the answer is faster than the server
		answered()
		arrive()
	case 3:
		arrive()
		lost(0)
	case 4:
		answered()
		lost(1)
	case 5: // the answer takes its time
		arrive()
		s.late = append(s.late, answered)
	case 6:
		s.late = append(s.late, arrive, answered)
	case 7:
		arrive()
		answered()
		s.again()
	case 8:
		s.hostile()
		arrive()
		answered()
	case 9:
		s.race(arrive, answered)
	}
}

// join attaches one end, unless a later carrier is there or the pipe is over.
func (s *schedule) join(e *end, w *wire, epoch, offset uint64) {
	plain := wireEnd{w, 0}
	if e == s.ends[1] {
		plain.side = 1
	}
	var conn net.Conn = plain
	if (s.seed+epoch)%2 == 0 {
		conn = eagerEnd{plain, new([]byte)}
	}
	c, err := e.Attach(conn, epoch, offset)
	if err != nil {
		s.excuse(e, epoch, err)
		conn.Close()
		return
	}
	s.mu.Lock()
	if state, _ := e.State(); state.Epoch == epoch {
		e.wire = w
	}
	s.mu.Unlock()
	s.going.Go(func() {
		why := c.Serve(context.Background())
		s.note("lost", e.name, epoch, why)
	})
}

// excuse judges why an honest attach was refused.
func (s *schedule) excuse(e *end, epoch uint64, err error) {
	state, _ := e.State()
	switch {
	case errors.Is(err, resume.ErrStale) && state.Epoch >= epoch:
	case state.Err != nil && errors.Is(err, state.Err):
	default:
		s.fail("the %s refused epoch %d: %v", e.name, epoch, err)
	}
	s.note("refused", e.name, epoch, err)
}

// again tries what must not touch a live carrier: a carrier with an epoch that was used
// already, and one from a peer who cannot be right.
func (s *schedule) again() {
	synctest.Wait()
	for _, e := range s.ends {
		before, _ := e.State()
		if before.Err != nil {
			continue
		}
		w := s.clean()
		for _, epoch := range []uint64{0, before.Epoch, s.Uint64N(before.Epoch + 1)} {
			if _, err := e.Attach(wireEnd{w, 0}, epoch, 0); !errors.Is(err, resume.ErrStale) {
				s.fail("the %s took epoch %d after %d: %v", e.name, epoch, before.Epoch, err)
			}
		}
		s.untouched(e, before)
	}
}

func (s *schedule) hostile() {
	synctest.Wait()
	for _, e := range s.ends {
		before, _ := e.State()
		if before.Err != nil {
			continue
		}
		w := s.clean()
		beyond := []uint64{uint64(len(e.out)) + 1, 1 << 63, 1<<64 - 1}[s.IntN(3)]
		var breach resume.Breach
		if _, err := e.Judge(before.Epoch+1, beyond); !errors.As(err, &breach) {
			s.fail("the %s would go on at %d: %v", e.name, beyond, err)
		}
		if _, err := e.Attach(wireEnd{w, 0}, before.Epoch+1, beyond); !errors.As(err, &breach) {
			s.fail("the %s went on at %d: %v", e.name, beyond, err)
		}
		s.untouched(e, before)
	}
}

func (s *schedule) untouched(e *end, before resume.State) {
	synctest.Wait()
	after, _ := e.State()
	if after != before {
		s.fail("a refused carrier made of the %s's\n%+v\n%+v", e.name, before, after)
	}
}

// race lets two carriers, one of which is later, come at the same time.
func (s *schedule) race(arrive, answered func()) {
	s.epoch++
	w, epoch := s.wire(), s.epoch
	hello, answer := s.ends[0].Received(), s.ends[1].Received()
	attempts := []func(){
		arrive, answered,
		func() { s.join(s.ends[1], w, epoch, hello) },
		func() { s.join(s.ends[0], w, epoch, answer) },
	}
	s.Shuffle(len(attempts), func(i, j int) { attempts[i], attempts[j] = attempts[j], attempts[i] })
	var all sync.WaitGroup
	for _, attempt := range attempts {
		all.Go(attempt)
	}
	all.Wait()
}
