package resume

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
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

// TestOffsetsPassEveryPowerOfTwo lets a pipe go on where long-lived ones are.
func TestOffsetsPassEveryPowerOfTwo(t *testing.T) {
	for _, at := range []uint64{1<<31 - 50_000, 1<<32 - 50_000, 1<<63 - 50_000} {
		synctest.Test(t, func(t *testing.T) {
			var pipes [2]*Pipe
			var going sync.WaitGroup
			for i := range pipes {
				p := New(Config{Grace: time.Minute})
				p.received, p.out.acked, p.out.sent, p.out.end = at, at, at, at
				pipes[i] = p
			}
			sent := make([]byte, 200_000)
			for i := range sent {
				sent[i] = byte(i * i >> 8)
			}
			var got bytes.Buffer
			going.Go(func() { io.Copy(&got, pipes[1]) })
			going.Go(func() { io.Copy(io.Discard, pipes[0]) })
			for epoch := range uint64(4) {
				near, far := net.Pipe()
				for i, conn := range []net.Conn{near, far} {
					c, err := pipes[i].Attach(conn, epoch+1, pipes[1-i].Received())
					if err != nil {
						t.Fatal(err)
					}
					going.Go(func() { c.Serve(t.Context()) })
				}
				pipes[0].Write(sent[epoch*50_000:][:50_000])
				if epoch%2 == 0 {
					synctest.Wait()
				}
			}
			time.Sleep(time.Second)
			if state, _ := pipes[0].State(); state.Held != 0 {
				t.Errorf("at %d: %+v", at, state)
			}
			pipes[0].Close()
			going.Wait()
			if !bytes.Equal(got.Bytes(), sent) {
				t.Errorf("at %d: %d bytes arrived, or others", at, got.Len())
			}
		})
	}
}
