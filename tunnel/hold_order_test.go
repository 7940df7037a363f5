package tunnel

import (
	"testing"
	"time"
)

func TestStreamThatIsFoundHeldCanBeCut(t *testing.T) {
	s := New(true, Config{})
	st := newStream(s, 1)
	cut, held := make(chan struct{}, 1), make(chan struct{})
	s.mu.Lock() // it is not found before
	go func() {
		defer close(held)
		st.Hold(func() { cut <- struct{}{} })
	}()
	known := func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.abandon != nil
	}
	for limit := time.Now().Add(5 * time.Second); !known(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Error("it can be found before it is known how it is cut")
			break
		}
	}
	s.mu.Unlock()
	<-held
	s.cutHeld()
	<-cut
}
