package tunnel

import (
	"io"
	"testing"
)

// newReader gives a stream that has received data, as the guard would have it.
func newReader(t *testing.T, data string) *Stream {
	t.Helper()
	st := New(true, Config{}).add(1)
	if pass, err := st.receive(makeHeader(yamuxVersion, typeData, 0, 1, uint32(len(data)))); !pass || err != nil {
		t.Fatal(pass, err)
	}
	return st
}

// TestWhoeverHasReadIsNotCalledForThat has somebody read what comes, and await what is next,
// before the guard's goroutine is done with it.
func TestWhoeverHasReadIsNotCalledForThat(t *testing.T) {
	st := newReader(t, "x")
	st.mu.Lock()
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		st.deliver([]byte("x"))
	}()
	<-st.unread.moved.wait()
	st.grant(st.unread.take(make([]byte, 1)), st.session.control)
	st.awaiting = func() { t.Error("it is called, and there is nothing to read") }
	st.mu.Unlock()
	<-delivered
	if st.awaiting == nil {
		t.Error("nobody is called for what is next")
	}
}

func TestReadWithoutABufferIsNoEnd(t *testing.T) {
	st := newReader(t, "x")
	st.deliver([]byte("x"))
	if pass, err := st.receive(makeHeader(yamuxVersion, typeWindow, flagFIN, 1, 0)); !pass || err != nil {
		t.Fatal(pass, err)
	}
	if n, err := st.Read(nil); n != 0 || err != nil {
		t.Errorf("Read gives %d bytes and %v before the last byte", n, err)
	}
	if b, err := io.ReadAll(st); string(b) != "x" || err != nil {
		t.Errorf("Read gives %q and %v", b, err)
	}
}
