package resume_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// TestAnyScheduleOfFaultsLosesAndDoublesNothing runs many small worlds in which
// everything goes wrong that can. ADIT_FULL=1 runs a million of them.
// ADIT_SCHEDULES=10-20 runs ten from number 10 on; ADIT_SCHEDULES=10 number 10 alone, but
// a thousand times: it says what happens, not in which order goroutines run meanwhile.
func TestAnyScheduleOfFaultsLosesAndDoublesNothing(t *testing.T) {
	const workers = 2
	first, last, times := uint64(0), uint64(10_000), 1
	if os.Getenv("ADIT_FULL") != "" {
		last = 1_000_000
	}
	if some := os.Getenv("ADIT_SCHEDULES"); some != "" {
		if n, _ := fmt.Sscanf(some, "%d-%d", &first, &last); n == 1 {
			last, times = first+1, 1000
		}
	}
	for worker := range uint64(workers) {
		t.Run(fmt.Sprint("worker ", worker), func(t *testing.T) {
			t.Parallel()
			for seed := first + worker; seed < last && !t.Failed(); seed += 100 * workers {
				runSchedules(t, seed, min(seed+100*workers, last), workers, times)
			}
		})
	}
}

// runSchedules runs some schedules in one bubble: with more of them its timers would pile up.
func runSchedules(t *testing.T, seed, last, step uint64, times int) {
	synctest.Test(t, func(t *testing.T) {
		running := true
		t.Cleanup(func() {
			if running {
				t.Errorf("schedule %d did not end", seed)
			}
		})
		for ; seed < last; seed += step {
			for range times {
				if !t.Failed() {
					newSchedule(t, seed).run()
				}
			}
		}
		running = false
	})
}

// tape has the bytes that are sent: each schedule and direction a piece of its
// own, so that a byte that is missing, comes twice or out of order is seen.
var tape = random(16<<20, 7)

// schedule is one small world: a client and a server whose pipe loses one carrier
// after another. What happens is decided by its seed.
type schedule struct {
	t    *testing.T
	seed uint64
	*rand.Rand
	ends   [2]*end // the client, and the server
	memory *resume.Memory
	bound  int // of memory; 0 if there is none
	met    bool
	closed bool
	slow   bool // a carrier may have taken its time
	chat   bool // with datagrams
	lazy   bool // whoever reads takes its time
	epoch  uint64
	wires  []*wire
	late   []func() // ends of attaches that are still under way
	going  sync.WaitGroup
	mu     sync.Mutex
	story  []event
}

type event struct {
	at   time.Time
	what string
	args [3]any
}

func newSchedule(t *testing.T, seed uint64) *schedule {
	s := &schedule{t: t, seed: seed, Rand: rand.New(rand.NewPCG(seed, 0xad17))}
	cfg := resume.Config{Idle: time.Duration(15+s.IntN(10)) * time.Second}
	switch s.IntN(8) {
	case 0:
		s.bound = 1 << (6 + s.IntN(16))
		s.memory = resume.NewMemory(s.bound)
	case 1, 2:
		s.memory = resume.NewMemory(64 << 20)
	}
	cfg.Memory = s.memory
	size := func() int {
		switch n := s.IntN(1000); {
		case n < 600:
			return s.IntN(600)
		case n < 950:
			return s.IntN(20_000)
		case n < 998:
			return s.IntN(300_000)
		}
		return s.IntN(8 << 20)
	}
	s.chat, s.lazy = s.IntN(4) == 0, s.IntN(4) == 0
	for i := range s.ends {
		cfg.Grace = []time.Duration{0, 5 * time.Second, time.Minute, 10 * time.Minute, 10 * time.Minute}[min(s.IntN(30), 4)]
		from := s.IntN(8 << 20)
		s.ends[i] = &end{Pipe: resume.New(cfg), s: s, name: []string{"client", "server"}[i], grace: cfg.Grace, out: tape[from : from+size()]}
	}
	s.ends[0].in, s.ends[1].in = s.ends[1].out, s.ends[0].out
	return s
}

func (s *schedule) note(what string, args ...any) {
	e := event{at: time.Now(), what: what}
	copy(e.args[:], args)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.story = append(s.story, e)
}

// fail tells what went wrong, and all that happened before.
func (s *schedule) fail(format string, args ...any) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.t.Failed() {
		return
	}
	s.t.Errorf("schedule %d: %s", s.seed, fmt.Sprintf(format, args...))
	for _, e := range s.story {
		s.t.Log(e.at.Sub(s.story[0].at), " ", e.what, e.args)
	}
	for _, e := range s.ends {
		state, _ := e.State()
		s.t.Logf("%s: wrote %d of %d, read %d of %d: %+v", e.name, e.wrote.Load(), len(e.out), e.read.Load(), len(e.in), state)
	}
}

func (s *schedule) run() {
	s.note("begin")
	for _, e := range s.ends {
		e.begin()
	}
	if s.IntN(8) > 0 {
		s.attach(0, s.clean())
		synctest.Wait()
		s.met = true
	}
	for range s.IntN(12) {
		s.step()
		synctest.Wait()
		s.check()
	}
	switch s.IntN(4) {
	case 0:
		s.cutForEver()
	case 1:
		s.closeNow()
	default:
		s.heal()
	}
	for _, w := range s.wires {
		w.strike(0, reset)
	}
	for _, e := range s.ends {
		e.Close()
	}
	s.going.Wait()
	for _, e := range s.ends {
		e.judge()
	}
	s.check()
	if s.memory != nil && s.memory.Used() != 0 {
		s.fail("%d bytes of memory were not given back", s.memory.Used())
	}
}

// step lets one thing happen.
func (s *schedule) step() {
	switch n := s.IntN(20); n {
	case 0, 1, 2, 3, 4, 5, 6:
		s.attach(s.IntN(10), s.wire())
	case 7, 8, 9:
		if len(s.wires) > 0 {
			f, side := fault(1+s.IntN(int(faults)-1)), s.IntN(2)
			s.note("fault", f, side)
			s.wires[len(s.wires)-1].strike(side, f)
		}
	case 10, 11:
		if len(s.late) > 0 {
			i := s.IntN(len(s.late))
			s.late[i]()
			s.late = append(s.late[:i], s.late[i+1:]...)
		}
	case 12, 13:
		s.pause(time.Duration(s.IntN(300)) * time.Millisecond)
	case 14, 15:
		s.pause(time.Duration(s.IntN(30_000)) * time.Millisecond)
	case 16:
		if s.IntN(4) == 0 {
			s.pause(time.Duration(s.IntN(15)) * time.Minute)
		}
	case 17:
		e := s.ends[s.IntN(2)]
		e.grace = min(e.grace, 10*time.Second)
		e.SetGrace(10 * time.Second)
		s.note("grace", e.name)
	case 18:
		s.ends[s.IntN(2)].Probe()
	case 19:
		if s.IntN(8) == 0 {
			s.close(s.IntN(2))
		}
	}
	if s.chat {
		s.datagrams()
	}
}

func (s *schedule) pause(d time.Duration) {
	s.note("pause", d)
	time.Sleep(d)
}

func (s *schedule) close(side int) {
	s.note("close", s.ends[side].name)
	s.closed = true
	s.ends[side].Close()
}

// check is about what must be true at any time.
func (s *schedule) check() {
	held := 0
	for _, e := range s.ends {
		state, _ := e.State()
		held += state.Held
		if limit := 64 << 20; state.Held > limit || !s.slow && state.Held > limit/16 {
			s.fail("the %s holds %d bytes", e.name, state.Held)
		}
		if state.Err != nil && state.Held > 0 && !state.Attached {
			s.fail("the %s holds %d bytes though it is over", e.name, state.Held)
		}
	}
	if s.memory != nil && s.memory.Used() != held {
		s.fail("%d bytes are held, %d booked", held, s.memory.Used())
	}
	// A piece and five of the smallest chunks each end may have in any case.
	if s.bound > 0 && held > s.bound+2*(41+5*2)<<10 {
		s.fail("%d bytes are held of %d", held, s.bound)
	}
}

func (s *schedule) anyOver() bool { return s.ends[0].over() || s.ends[1].over() }

// works tells whether both ends have the same carrier, and nothing is wrong with it.
func (s *schedule) works() bool {
	for _, e := range s.ends {
		if state, _ := e.State(); !state.Attached || state.Err != nil {
			return false
		}
	}
	return s.ends[0].wire == s.ends[1].wire && s.ends[0].wire.works()
}

// heal gives the pipe a carrier that works, if it has none: everything arrives.
func (s *schedule) heal() {
	synctest.Wait()
	if !s.works() {
		s.attach(0, s.clean())
	}
	s.note("heal")
	all := func() bool {
		for _, e := range s.ends {
			if e.read.Load() < int64(len(e.in)) {
				return s.anyOver()
			}
		}
		return true
	}
	patience := 5 * time.Second // nobody here takes more time than that
	if s.slow {
		patience = 10 * time.Minute // a frame, and what is known of it already
	}
	for progress := int64(-1); !all(); {
		sum := s.ends[0].read.Load() + s.ends[1].read.Load()
		if sum == progress {
			s.fail("nothing moves over a carrier that works")
			return
		}
		progress = sum
		time.Sleep(patience)
	}
	time.Sleep(time.Second + 2*patience/5) // to acknowledge
	for _, e := range s.ends {
		if state, _ := e.State(); state.Held > 0 && !s.anyOver() {
			s.fail("what the %s had written was not acknowledged", e.name)
		}
	}
	if !s.anyOver() {
		s.closeNow()
	}
}

// closeNow ends the pipe at one end. If its carrier works, what was written
// arrives first.
func (s *schedule) closeNow() {
	synctest.Wait()
	side := s.IntN(2)
	here, there := s.ends[side], s.ends[1-side]
	works := s.works() && !s.slow && !s.lazy
	wrote := here.wrote.Load()
	s.close(side)
	if !works {
		return
	}
	if !there.ends(3 * time.Second) {
		s.fail("the %s was not told that the pipe is over", there.name)
	}
	synctest.Wait()
	if there.read.Load() < wrote {
		s.fail("the end came before %d bytes of %d", wrote-there.read.Load(), wrote)
	}
	if state, _ := there.State(); !errors.Is(state.Err, resume.PeerClosed{}) {
		s.fail("the %s ended because: %v", there.name, state.Err)
	}
}

// cutForEver lets nothing work any more.
func (s *schedule) cutForEver() {
	s.note("cut for ever")
	for _, w := range s.wires {
		w.strike(0, []fault{reset, broken}[s.IntN(2)])
	}
	s.late = nil
	s.pause(time.Second)
	for _, e := range s.ends {
		state, _ := e.State()
		if state.Epoch > 0 && !e.ends(11*time.Minute) {
			s.fail("the %s is not over", e.name)
		}
	}
}
