package resume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// TestAnyScheduleOfFaultsLosesAndDoublesNothing runs many small worlds in which
// everything goes wrong that can. ADIT_FULL=1 runs a million of them; ADIT_SCHEDULE=n
// runs the n-th many times over, because it fixes what happens, but not in which order
// goroutines run in between.
func TestAnyScheduleOfFaultsLosesAndDoublesNothing(t *testing.T) {
	const workers = 2
	first, count := uint64(0), uint64(10_000)
	if os.Getenv("ADIT_FULL") != "" {
		count = 1_000_000
	}
	if s := os.Getenv("ADIT_SCHEDULES"); s != "" { // a range of them: first-last
		fmt.Sscanf(s, "%d-%d", &first, &count)
		count -= first
	}
	one, err := strconv.ParseUint(os.Getenv("ADIT_SCHEDULE"), 10, 64)
	if err == nil {
		count = 1000
	}
	for worker := range uint64(workers) {
		t.Run(fmt.Sprint("worker ", worker), func(t *testing.T) {
			t.Parallel()
			for n := worker; n < count && !t.Failed(); n += 100 * workers {
				synctest.Test(t, func(t *testing.T) { // a new one now and then, lest its timers pile up
					seed, running := first, true
					t.Cleanup(func() {
						if running {
							t.Errorf("schedule %d did not end", seed)
						}
					})
					for i := n; i < min(n+100*workers, count) && !t.Failed(); i += workers {
						if seed = first + i; err == nil {
							seed = one
						}
						newSchedule(t, seed).run()
					}
					running = false
				})
			}
		})
	}
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

// end is one end of the pipe, and who uses it.
type end struct {
	*resume.Pipe
	s        *schedule
	name     string
	grace    time.Duration // the shortest that it has ever had
	out, in  []byte        // what it writes, and what it is to read
	wrote    atomic.Int64
	read     atomic.Int64
	readErr  error
	writeErr error
	wire     *wire          // the last that it was attached to
	done     sync.WaitGroup // reader and writer
	at       time.Time      // when its reader ended
	since    time.Time      // and since when it had been without a carrier
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
	conn := wireEnd{w, 0}
	if e == s.ends[1] {
		conn.side = 1
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
	if s.bound > 0 && held > max(s.bound, 0)+2*43<<10 {
		s.fail("%d bytes are held of %d", held, s.bound)
	}
}

// ends waits until an end is over, for so long at most.
func (e *end) ends(limit time.Duration) bool {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-e.Over():
		return true
	case <-late.C:
		return false
	}
}

// over tells whether an end is over.
func (e *end) over() bool {
	state, _ := e.State()
	return state.Err != nil
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

// begin lets somebody write and read.
func (e *end) begin() {
	e.done.Add(2)
	writes, reads := rand.New(rand.NewPCG(e.s.Uint64(), 1)), rand.New(rand.NewPCG(e.s.Uint64(), 2))
	e.s.going.Go(func() { e.write(writes); e.done.Done() })
	e.s.going.Go(func() { e.take(reads); e.done.Done() })
	if e.s.chat {
		e.s.going.Go(e.listen)
	}
}

func (e *end) write(r *rand.Rand) {
	for off := 0; off < len(e.out); {
		size := 1 + r.IntN(300)
		if r.IntN(4) == 0 {
			size = 1 + r.IntN(100_000)
		}
		size = min(size, len(e.out)-off)
		n, err := e.put(e.out[off:off+size], r.IntN(2) == 0)
		off += n
		e.wrote.Store(int64(off))
		if err != nil || n < size {
			e.writeErr = err
			if err == nil {
				e.s.fail("the %s wrote %d bytes of %d", e.name, n, size)
			}
			return
		}
		if r.IntN(8) == 0 {
			time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		}
	}
}

// put writes b, if it fits and is to be handed over in a buffer of the pipe's.
func (e *end) put(b []byte, hand bool) (int, error) {
	buffer := resume.NewBuffer()
	if !hand || len(*buffer)+len(b) > cap(*buffer) {
		resume.FreeBuffer(buffer)
		return e.Write(b)
	}
	*buffer = append(*buffer, b...)
	if err := e.WriteBuffer(buffer); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (e *end) take(r *rand.Rand) {
	b := make([]byte, 1<<(1+r.IntN(12)))
	if len(e.in) > 100_000 {
		b = make([]byte, 32<<10)
	}
	for at := 0; ; {
		n, err := e.Read(b)
		if at+n > len(e.in) || !bytes.Equal(b[:n], e.in[at:at+n]) {
			e.s.fail("the %s read something else at %d", e.name, at)
			return
		}
		at += n
		e.read.Store(int64(at))
		if err != nil {
			e.readErr = err
			state, _ := e.State()
			e.at, e.since = time.Now(), state.Since
			e.s.note("over", e.name, err)
			return
		}
		if n == 0 {
			e.s.fail("the %s read nothing", e.name)
			return
		}
		if e.s.lazy && r.IntN(50) == 0 {
			time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
		}
	}
}

// datagrams sends some.
func (s *schedule) datagrams() {
	for _, e := range s.ends {
		for range s.IntN(4) {
			b := make([]byte, 8+s.IntN(2000))
			s.epoch++ // so that each has a number of its own
			binary.BigEndian.PutUint64(b, s.epoch)
			for i := 8; i < len(b); i++ {
				b[i] = b[7] + byte(i)
			}
			e.SendDatagram(b[:3], b[3:])
		}
	}
}

// listen takes datagrams: each comes once at most, whole, and none before an
// earlier one.
func (e *end) listen() {
	for last := uint64(0); ; {
		b, err := e.ReceiveDatagram(context.Background())
		if err != nil {
			return
		}
		number := binary.BigEndian.Uint64(b)
		for i := 8; i < len(b); i++ {
			if b[i] != b[7]+byte(i) {
				e.s.fail("the %s got a datagram that was not sent", e.name)
				return
			}
		}
		if number <= last {
			e.s.fail("the %s got datagram %d after %d", e.name, number, last)
		}
		last = number
	}
}

// judge is about how it all ended for an end.
func (e *end) judge() {
	e.done.Wait()
	var breach resume.Breach
	switch {
	case e.readErr == nil:
		e.s.fail("the %s's reader ended without an error", e.name)
	case errors.Is(e.readErr, io.EOF) || errors.Is(e.readErr, io.ErrUnexpectedEOF):
		e.s.fail("the %s's loss looks like an end", e.name)
	case errors.As(e.readErr, &breach):
		e.s.fail("the %s: %v", e.name, e.readErr)
	case errors.Is(e.readErr, resume.ErrGrace) && e.s.met && e.at.Sub(e.since) < e.grace:
		e.s.fail("the %s waited only %v", e.name, e.at.Sub(e.since))
	case errors.Is(e.readErr, resume.ErrEvicted) && e.s.bound == 0:
		e.s.fail("the %s was given up without need", e.name)
	case errors.Is(e.readErr, resume.PeerClosed{}) && !e.s.closed:
		e.s.fail("the %s was closed by nobody", e.name)
	}
	if int(e.wrote.Load()) < len(e.out) && e.writeErr == nil {
		e.s.fail("the %s's writer ended without an error", e.name)
	}
}
