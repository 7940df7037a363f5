package resume

import (
	"errors"
	"net"
	"testing"
	"time"
)

// TestWriterSeesTheEndThatComesWhileItLooksForMemory is about what happens while
// a writer has let go of its pipe to give up another one.
func TestWriterSeesTheEndThatComesWhileItLooksForMemory(t *testing.T) {
	m := NewMemory(1)
	other := New(Config{Memory: m})
	m.park(other)
	other.mu.Lock() // whoever wants to give it up must wait

	near, far := net.Pipe() // nobody reads at far: what is written stays unacknowledged
	defer far.Close()
	p := New(Config{Memory: m})
	c, err := p.Attach(near, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- c.Serve(t.Context()) }()
	go func() {
		var b [1 << 10]byte
		for {
			if _, err := far.Read(b[:]); err != nil {
				return
			}
		}
	}()
	written := make(chan error, 1)
	go func() {
		_, err := p.Write(make([]byte, 2*maxData))
		written <- err
	}()
	for looking := false; !looking; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		looking = m.detached.Len() == 0
		m.mu.Unlock()
	}
	p.Close()
	<-served // nothing happens any more that could wake the writer
	other.mu.Unlock()
	select {
	case err := <-written:
		if !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Write did not return when its pipe was closed")
	}
}
