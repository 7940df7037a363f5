package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// pacer lets a few bytes pass at a time, and counts them.
type pacer struct {
	piece       int
	read, wrote int

	once   sync.Once
	closed chan struct{} // nil: nobody waits
}

func (p *pacer) turn(n int) (int, error) {
	if p.closed != nil {
		<-p.closed
		return 0, net.ErrClosed
	}
	return min(n, p.piece), nil
}

func (p *pacer) PaceRead(n int) (int, error) {
	k, err := p.turn(n)
	p.read += k
	return k, err
}

func (p *pacer) PaceWrite(n int) (int, error) {
	k, err := p.turn(n)
	p.wrote += k
	return k, err
}

// closing is a conn that tells its pacer when it ends.
type closing struct {
	Conn
	pacer *pacer
}

func (c closing) Close() error { c.end(); return c.Conn.Close() }
func (c closing) Reset() error { c.end(); return c.Conn.Reset() }
func (c closing) end()         { c.pacer.once.Do(func() { close(c.pacer.closed) }) }

func startPaced(t *testing.T, p *pacer) *running {
	t.Helper()
	r := &running{result: make(chan Result, 1)}
	r.left, r.a = tcpPair(t)
	r.right, r.b = tcpPair(t)
	target := TCP(r.b)
	if p.closed != nil {
		target = closing{target, p}
	}
	go func() { r.result <- Copy(t.Context(), TCP(r.a), Paced(target, p)) }()
	return r
}

func TestPacedBytesAllPassInPieces(t *testing.T) {
	p := &pacer{piece: 100}
	r := startPaced(t, p)
	up, down := bytes.Repeat([]byte("up"), 10_000), bytes.Repeat([]byte("down"), 10_000)
	var all sync.WaitGroup
	for _, c := range []struct {
		from, to *net.TCPConn
		text     []byte
	}{{r.left, r.right, up}, {r.right, r.left, down}} {
		all.Go(func() {
			c.from.Write(c.text)
			c.from.CloseWrite()
		})
		all.Go(func() {
			if got, err := io.ReadAll(c.to); err != nil || !bytes.Equal(got, c.text) {
				t.Errorf("read %d bytes (%v), want %d", len(got), err, len(c.text))
			}
		})
	}
	all.Wait()
	if got, want := r.end(t), (Result{Up: int64(len(up)), Down: int64(len(down))}); got != want {
		t.Errorf("result %+v, want %+v", got, want)
	}
	if p.wrote != len(up) || p.read != len(down) {
		t.Errorf("%d bytes up and %d down were paced", p.wrote, p.read)
	}
}

// What waits for its turn must not keep the news from either end.
func TestPacedConnsEndWhileBytesWait(t *testing.T) {
	for _, name := range []string{"left", "right"} {
		t.Run(name, func(t *testing.T) {
			p := &pacer{closed: make(chan struct{})}
			r := startPaced(t, p)
			first, last := r.left, r.right
			if name == "right" {
				first, last = last, first
			}
			send(t, last, "it waits for its turn")
			first.SetLinger(0)
			first.Close()
			expectReset(t, last)
			if got := r.end(t); got.Err == nil || got.Up+got.Down != 0 {
				t.Errorf("result %+v", got)
			}
		})
	}
}

func TestPacedReadAndWriteCountEveryByte(t *testing.T) {
	near, far := tcpPair(t)
	p := &pacer{piece: 3}
	c := Paced(TCP(near), p)
	if n, err := io.WriteString(c, "0123456789"); n != 10 || err != nil {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	expect(t, far, "0123456789")
	send(t, far, "01234567")
	far.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "01234567" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	if p.wrote != 10 || p.read != 8 {
		t.Errorf("%d and %d bytes were paced", p.wrote, p.read)
	}
	reason := errors.New("told to")
	Fail(c, reason)
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("it is not closed")
	}
}

// free limits nothing.
type free struct{}

func (free) PaceRead(n int) (int, error)  { return n, nil }
func (free) PaceWrite(n int) (int, error) { return n, nil }

// benchCopy moves 64 KiB at a time through a Copy.
func benchCopy(b *testing.B, wrap func(Conn) Conn) {
	near, a := tcpPair(b)
	far, target := tcpPair(b)
	for _, c := range []*net.TCPConn{near, a, far, target} {
		c.SetDeadline(time.Time{})
	}
	done := make(chan Result, 1)
	go func() { done <- Copy(b.Context(), TCP(a), wrap(TCP(target))) }()
	go io.Copy(io.Discard, struct{ io.Reader }{far})
	piece := make([]byte, 64<<10)
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		if _, err := near.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	near.Close()
	far.CloseWrite()
	<-done
}

func BenchmarkCopy(b *testing.B)      { benchCopy(b, func(c Conn) Conn { return c }) }
func BenchmarkCopyPaced(b *testing.B) { benchCopy(b, func(c Conn) Conn { return Paced(c, free{}) }) }
