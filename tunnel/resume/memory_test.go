package resume_test

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// holder is a pipe that holds memory, because its peer acknowledges nothing.
type holder struct {
	*raw
	wire *wire
}

func newHolder(t *testing.T, m *resume.Memory) *holder {
	h := &holder{raw: newRaw(t, resume.Config{Grace: time.Hour, Memory: m})}
	h.read()
	h.come()
	return h
}

func (h *holder) come() {
	w, peer, _ := h.attach(0, roomy)
	h.wire = w
	h.ended.Go(func() { io.Copy(io.Discard, peer) })
	peer.Write(valueFrame(pong, 0)) // so that it has been heard
	synctest.Wait()
}

func (h *holder) leave() {
	h.wire.strike(0, reset)
	synctest.Wait()
}

func (h *holder) why() error {
	state, _ := h.a.State()
	return state.Err
}

// hold writes a piece that takes 42 KiB; done is closed when it has been taken.
func (h *holder) hold() (done chan struct{}) {
	done = make(chan struct{})
	h.ended.Go(func() {
		if _, err := h.a.Write(make([]byte, 40_000)); err == nil {
			close(done)
		}
	})
	synctest.Wait()
	return done
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

const piece = 41 << 10

func TestMemoryGivesUpTheLongestDetachedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := resume.NewMemory(4 * piece)
		one, two, three, empty, live := newHolder(t, m), newHolder(t, m), newHolder(t, m), newHolder(t, m), newHolder(t, m)
		empty.leave() // holds nothing: nobody would be helped
		for _, h := range []*holder{one, two, three, live} {
			<-h.hold()
		}
		for _, h := range []*holder{one, two, three} {
			h.leave()
			time.Sleep(time.Second)
		}
		one.come() // and so two is now the longest detached
		time.Sleep(time.Second)
		one.leave()
		for i, h := range []*holder{two, three, one} {
			if h.why() != nil {
				t.Fatalf("number %d was given up too early", i)
			}
			if !closed(live.hold()) {
				t.Fatal("there was no room")
			}
			if !errors.Is(h.why(), resume.ErrEvicted) {
				t.Errorf("number %d is over because: %v", i, h.why())
			}
			if m.Used() != 4*piece {
				t.Errorf("%d bytes are booked", m.Used())
			}
		}
		if closed(live.hold()) {
			t.Error("there was room though nobody could be given up")
		}
		if empty.why() != nil || live.why() != nil {
			t.Error("a pipe was given up for nothing")
		}
	})
}

func TestMemoryLetsEachPipeHoldOnePiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := resume.NewMemory(1)
		for range 5 {
			h := newHolder(t, m)
			if !closed(h.hold()) {
				t.Error("a pipe that held nothing was given nothing")
			}
			if closed(h.hold()) {
				t.Error("a second piece was given")
			}
		}
		if m.Used() != 5*piece {
			t.Errorf("%d bytes are booked", m.Used())
		}
	})
}

// TestPipeHoldsNoMoreThanItsBound is about a path that swallows whatever it is given.
func TestDatagramsWithoutMemoryHoldLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: time.Hour, Memory: resume.NewMemory(64)})
		_, peer, _ := r.attach(0, roomy)
		r.read()
		for range 100 { // nobody takes them
			peer.Write(datagramFrame(make([]byte, 400)))
			synctest.Wait()
			if state, _ := r.a.State(); state.Held > 4<<10 {
				t.Fatalf("%d bytes are held", state.Held)
			}
		}
		r.close()
	})
}

func TestPipeHoldsNoMoreThanItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := resume.NewMemory(1 << 30)
		h := newHolder(t, m)
		for _, size := range []int{1, 400, 1000, 5000, 40_000, 1 << 20} {
			wrote := make(chan int, 1)
			h := newHolder(t, m)
			h.ended.Go(func() {
				n := 0
				for {
					k, err := h.a.Write(make([]byte, size))
					if n += k; err != nil {
						wrote <- n
						return
					}
				}
			})
			synctest.Wait()
			state, _ := h.a.State()
			if state.Held > 4<<20 || state.Held < 4<<20-piece {
				t.Errorf("%d bytes are held", state.Held)
			}
			h.a.Close()
			if n := <-wrote; n > state.Held {
				t.Errorf("%d bytes were taken, %d held", n, state.Held)
			}
			h.ended.Wait()
		}
		h.a.Close()
		h.ended.Wait()
		if m.Used() != 0 {
			t.Errorf("%d bytes were not given back", m.Used())
		}
	})
}

func TestGraceExpiresWhenItShould(t *testing.T) {
	const grace = 10 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: grace})
		_, done := r.read()
		for range 3 { // it comes back just in time
			w, peer, _ := r.attach(0, roomy)
			peer.Write(valueFrame(pong, 0))
			synctest.Wait()
			w.strike(0, reset)
			synctest.Wait()
			time.Sleep(grace - time.Nanosecond)
			synctest.Wait()
			if state, _ := r.a.State(); state.Err != nil {
				t.Fatalf("it is over too early: %v", state.Err)
			}
		}
		time.Sleep(time.Nanosecond)
		if err := <-done; !errors.Is(err, resume.ErrGrace) {
			t.Error(err)
		}
		if n, err := r.a.Write([]byte("late")); n != 0 || !errors.Is(err, resume.ErrGrace) {
			t.Errorf("a write of %d bytes: %v", n, err)
		}
		if _, err := r.a.Attach(wireEnd{newWire(roomy, roomy, t.Errorf), 0}, 99, 0); !errors.Is(err, resume.ErrGrace) {
			t.Errorf("a carrier came too late: %v", err)
		}
	})
}

// TestGraceBeginsWhenThePathWasHeardLast is about a path that died without a word: while
// that was not known, the session's time ran already.
func TestGraceBeginsWhenThePathWasHeardLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: time.Minute})
		_, done := r.read()
		_, peer, _ := r.attach(0, roomy)
		peer.Write(valueFrame(pong, 1))
		synctest.Wait()
		began := time.Now()
		<-done
		if took := time.Since(began); took != time.Minute {
			t.Errorf("it was over after %v", took)
		}
	})
}

func TestGraceCanBeChangedFromTheNextLossOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: time.Hour})
		_, done := r.read()
		w, peer, _ := r.attach(0, roomy)
		peer.Write(valueFrame(pong, 0))
		synctest.Wait()
		w.strike(0, reset)
		synctest.Wait()
		r.a.SetGrace(time.Minute)
		time.Sleep(30 * time.Minute)
		w, _, _ = r.attach(0, roomy)
		synctest.Wait()
		w.strike(0, reset)
		synctest.Wait()
		began := time.Now()
		if err := <-done; !errors.Is(err, resume.ErrGrace) || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestPipeWithoutGraceEndsWithItsCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{})
		got, done := r.read()
		_, peer, _ := r.attach(0, roomy)
		peer.Write(dataFrame(0, 0, []byte("hello")))
		synctest.Wait()
		peer.Close()
		if err := <-done; !errors.Is(err, resume.ErrGrace) || string(got()) != "hello" {
			t.Errorf("%q, then %v", got(), err)
		}
		state, _ := r.a.State()
		if !errors.Is(state.Lost, io.ErrUnexpectedEOF) {
			t.Errorf("the carrier was lost because: %v", state.Lost)
		}
	})
}
