package tunnel

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestTwoTurnsAtATimeAreForWhoIsAlone(t *testing.T) {
	for what, test := range map[string]struct {
		alone bool
		make  func(*outbox)
		want  int
	}{
		"nobody else says anything":                  {true, func(*outbox) {}, outboxDouble},
		"others chat":                                {false, func(*outbox) {}, outboxTurn},
		"the pipe has made somebody wait lately":     {true, func(o *outbox) { o.eased = easeAfter - 1 }, outboxTurn},
		"the pipe has bytes that it does not take":   {true, func(o *outbox) { o.writing = true }, outboxTurn},
		"something small of another stream is there": {true, func(o *outbox) { o.data = dataSize(1) }, 0},
	} {
		o := newOutbox(io.Discard)
		o.eased = easeAfter
		test.make(o)
		before := o.data
		var dead latch
		if test.want == 0 { // it has to wait for room
			dead.shut()
		}
		n, err := o.reserve(outboxDouble, test.alone, new(deadline), &dead)
		if n != test.want || (err != nil) != (test.want == 0) {
			t.Errorf("%s: room for %d bytes, %v, want %d", what, n, err, test.want)
		}
		want := before
		if n > 0 {
			want += dataSize(n)
		}
		if o.data != want {
			t.Errorf("%s: %d bytes are reserved, want %d", what, o.data, want)
		}
	}
}

func TestWhoWaitsForRoomGetsTwoTurnsIfAlone(t *testing.T) {
	for what, test := range map[string]struct {
		alone bool
		eased int
		want  int
	}{
		"nobody chats":                           {true, easeAfter, outboxDouble},
		"others chat":                            {false, easeAfter, outboxTurn},
		"the pipe has made somebody wait lately": {true, easeAfter - 1, outboxTurn},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := newOutbox(io.Discard)
			o.eased, o.data = test.eased, dataSize(outboxDouble)
			got := make(chan int, 3)
			for range cap(got) {
				go func() {
					n, _ := o.reserve(outboxDouble, test.alone, new(deadline), new(latch))
					got <- n
				}()
			}
			synctest.Wait()
			for before := dataSize(outboxDouble); len(o.waiters) > 0; before = o.data {
				o.mu.Lock()
				o.data -= before // it is out
				o.admit()
				o.mu.Unlock()
				if n := <-got; n != test.want || o.data != dataSize(n) {
					t.Errorf("%s: room for %d bytes, want %d; %d are reserved", what, n, test.want, o.data)
				}
			}
		})
	}
}

func TestSmallFramesDoNotStandInLineBehindASecondTurn(t *testing.T) {
	o := newOutbox(io.Discard)
	o.eased = easeAfter
	var never, dead latch
	dead.shut()
	if n, err := o.reserve(outboxDouble, true, new(deadline), &never); n != outboxDouble {
		t.Fatal(n, err)
	}
	const word = 1000
	words := func() (n int) {
		for {
			if k, _ := o.reserve(word, true, new(deadline), &dead); k == 0 {
				return n
			}
			n++
		}
	}
	o.waiters = append(o.waiters, &waiter{n: outboxDouble, ready: make(chan struct{})})
	if n, want := words(), outboxSmall/dataSize(word); n != want {
		t.Errorf("%d words have room beside two turns, want %d", n, want)
	}
	o.inFrame = dataSize(outboxTurn) // the first of them is out
	o.detach()
	if words(); o.data > outboxSize+outboxSmall {
		t.Errorf("%d bytes are reserved for one turn and words", o.data)
	}
	o.inFrame = o.data
	o.detach()
	if words(); o.data > outboxSize+outboxSmall {
		t.Errorf("%d bytes are reserved for words alone", o.data)
	}
}

func TestWhoGivesUpHoldsUpNobodyBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(io.Discard)
		o.data = outboxSize / 2
		limit := new(deadline)
		limit.set(time.Now().Add(time.Second))
		errs := make(chan error, 2)
		go func() {
			_, err := o.reserve(outboxTurn, false, limit, new(latch))
			errs <- err
		}()
		synctest.Wait()
		go func() {
			_, err := o.reserve(outboxTurn/4, false, new(deadline), new(latch))
			errs <- err
		}()
		if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("who wants a turn gets %v", err)
		}
		synctest.Wait()
		if len(o.waiters) > 0 {
			t.Error("who wants less waits, though there is room")
			o.close(io.ErrClosedPipe)
		}
		<-errs
	})
}
