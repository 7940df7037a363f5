package resume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// tcp gives both ends of a connection whose buffers have 64 KiB.
func tcp(t *testing.T) (ends [2]net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if ends[0], err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ends[1], err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range ends {
		c.(*net.TCPConn).SetReadBuffer(64 << 10)
		c.(*net.TCPConn).SetWriteBuffer(64 << 10)
	}
	return ends
}

// hole is a conn that takes everything and gives nothing but, first, what makes
// the peer known.
func hole(t *testing.T) net.Conn {
	near, far := net.Pipe()
	go io.Copy(io.Discard, far)
	go far.Write(appendValue(nil, typePong, 0))
	t.Cleanup(func() { far.Close() })
	return near
}

// TestCatchUpBothWaysDoesNotLockUp lets both ends owe each other their whole replay
// buffers when a carrier comes whose own buffers are small.
func TestCatchUpBothWaysDoesNotLockUp(t *testing.T) {
	for _, test := range []struct {
		name         string
		limit, total int
		times        int
	}{
		{"at the first bound", minReplay, 16 << 20, 4},
		{"at a grown bound", 20 << 20, 16 << 20, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			for n := range test.times {
				catchUp(t, test.limit, test.total, n)
			}
		})
	}
}

func catchUp(t *testing.T, limit, total, n int) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := NewMemory(1 << 30)
	var going, done sync.WaitGroup
	var pipes [2]*Pipe
	for i := range pipes {
		p := New(Config{Grace: time.Minute, Memory: m})
		p.limit = limit
		pipes[i] = p
	}
	context.AfterFunc(ctx, func() { pipes[0].Close(); pipes[1].Close() })
	carry := func(epoch uint64, conns [2]net.Conn) (carriers [2]*Carrier) {
		for i, p := range pipes {
			c, err := p.Attach(conns[i], epoch, pipes[1-i].Received())
			if err != nil {
				t.Fatal(err)
			}
			going.Go(func() { c.Serve(context.Background()) })
			carriers[i] = c
		}
		return carriers
	}
	for i, p := range pipes {
		want := make([]byte, total)
		rand.NewChaCha8(sha256.Sum256([]byte{byte(n), byte(i)})).Read(want)
		done.Go(func() {
			if k, err := p.Write(want); err != nil {
				t.Errorf("wrote %d bytes: %v", k, err)
			}
		})
		done.Go(func() {
			got := make([]byte, total)
			if k, err := io.ReadFull(pipes[1-i], got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d bytes of %d, others than were written, or: %v", k, total, err)
			}
			going.Go(func() { io.Copy(io.Discard, pipes[1-i]) }) // acknowledgements come with what is read
		})
	}
	held := min(limit-sizeOf(maxData), total)
	lost := carry(1, [2]net.Conn{hole(t), hole(t)})
	for _, p := range pipes {
		for full := false; !full && ctx.Err() == nil; time.Sleep(time.Millisecond) {
			p.mu.Lock()
			full = p.out.held >= held && p.met
			p.mu.Unlock()
		}
	}
	for _, c := range lost {
		c.Drop(io.ErrClosedPipe)
	}
	began := time.Now()
	second := carry(2, tcp(t))
	if got := min(second[0].Replay, second[1].Replay); got < int64(held)*9/10 {
		t.Errorf("only %d bytes had to be sent again", got)
	}
	done.Wait()
	t.Logf("%d MiB both ways in %v", total>>20, time.Since(began).Round(time.Millisecond))
	cancel()
	going.Wait()
	if m.Used() != 0 {
		t.Errorf("%d bytes of memory were not given back", m.Used())
	}
}
