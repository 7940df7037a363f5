package tunnel_test

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// BenchmarkLongPath moves bytes over 1 Gbit/s at 100 ms round trip. One
// operation is 1 MiB; 125 MB/s is all that the link can do.
func BenchmarkLongPath(b *testing.B) {
	x, y := tunneltest.Link(tunneltest.Path{Delay: 50 * time.Millisecond, Rate: 125_000_000, Queue: 16 << 20})
	p := newPair(b, x, y, 0)
	defer p.stop()
	from, to := p.open(b)
	b.SetBytes(1 << 20)
	// The window has grown before the clock starts.
	warm := 512 << 20
	go func() {
		buf := make([]byte, 1<<20)
		for range warm>>20 + b.N {
			if _, err := from.Write(buf); err != nil {
				return
			}
		}
		from.CloseWrite()
	}()
	if _, err := io.CopyN(io.Discard, to, int64(warm)); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	if _, err := io.Copy(io.Discard, to); err != nil {
		b.Fatal(err)
	}
}

// TestThousandReadersThatStandStillPinLittle fills a thousand streams that
// nobody reads until nothing more goes in, and counts what went in.
func TestThousandReadersThatStandStillPinLittle(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 0)
	defer p.stop()
	const streams = 1000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	full := make(chan int64, streams)
	for range streams {
		c, _ := p.open(t)
		go func() {
			var n int64
			buf := make([]byte, 64<<10)
			for {
				c.SetWriteDeadline(time.Now().Add(3 * time.Second))
				k, err := c.Write(buf)
				n += int64(k)
				if err != nil {
					full <- n
					return
				}
			}
		}()
	}
	var total int64
	for range streams {
		total += <-full
	}
	// What is in flight below the streams is a few hundred KiB.
	if limit := int64(64<<20 + streams*16<<10); total > limit {
		t.Errorf("%d bytes went in, more than %d", total, limit)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d MiB of data in %d MiB of heap for both ends", total>>20, grown>>20)
	if grown > 192<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	// The session still works: another stream passes those that stand still.
	c, s := p.open(t)
	go c.Write([]byte("hello"))
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestWriteDeadlineHoldsWhilePipeStandsStill(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{Queue: 64 << 10})
	p := newPair(t, x, y, 0)
	defer p.stop()
	c, _ := p.open(t)
	x.Stall(true)
	c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		_, err := c.Write(make([]byte, 64<<10))
		if err == nil {
			continue
		}
		if e, ok := err.(interface{ Timeout() bool }); !ok || !e.Timeout() {
			t.Fatalf("Write = %v, want a time-out", err)
		}
		break
	}
	x.Stall(false)
	// The deadline is over, not the stream.
	c.SetWriteDeadline(time.Time{})
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestLostSessionIsNoCleanEnd(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 0)
	defer p.stop()
	c, s := p.open(t)
	ended, other := p.open(t)
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	other.Write([]byte("all of it"))
	other.CloseWrite()
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(ended); err != nil {
		t.Fatal(err)
	}
	x.Cut()
	if _, err := c.Read(buf); !errors.Is(err, tunnel.ErrSessionLost) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %v, want a lost session", err)
	}
	if _, err := c.Write(buf); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write = %v, want a reset", err)
	}
	if _, err := ended.Read(buf); err != io.EOF {
		t.Errorf("Read of a stream that had ended = %v, want io.EOF", err)
	}
}

func TestResetIsNoCleanEnd(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 0)
	defer p.stop()
	c, s := p.open(t)
	s.Write([]byte("hello"))
	s.Reset()
	got, err := io.ReadAll(c)
	if string(got) != "hello" || !errors.Is(err, tunnel.ErrReset) {
		t.Errorf("read %q, %v, want hello and a reset", got, err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, tunnel.ErrReset) {
		t.Errorf("Write = %v, want a reset", err)
	}
}

// Whoever comes second, be it that data arrives which nobody wants any more, must
// not say that the stream ends before the first one has said that it is reset.
func TestSecondResetIsNoCleanEnd(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 0)
	defer p.stop()
	for range 2000 {
		c, s := p.open(t)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { c.Reset() })
		}
		// The handler closes s when it is reset.
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrReset) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read = %v, want a reset", err)
		}
		all.Wait()
		s.Close()
	}
}

// TestStreamsLeaveNothingBehind opens and ends many streams in every way.
func TestStreamsLeaveNothingBehind(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 100)
	defer p.stop()
	for i := range 3000 {
		c, s := p.open(t)
		c.Write([]byte("hello"))
		if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
			t.Fatal(i, err)
		}
		switch i % 4 {
		case 0:
			c.Reset()
			s.Close()
		case 1:
			s.Reset()
			s.handled()
			c.Close()
		case 2:
			c.CloseWrite()
			io.Copy(io.Discard, s)
			s.Close()
			io.Copy(io.Discard, c)
			c.Close()
		default:
			s.Write([]byte("nobody reads this"))
			c.Close()
			s.Close()
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		a, b := p.client.Stats(), p.server.Stats()
		if a.Streams == 0 && b.Streams == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d and %d streams are left", a.Streams, b.Streams)
		}
	}
}

// TestResetStreamIsGoneAtOnce uses a session on which nothing else moves.
func TestResetStreamIsGoneAtOnce(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 1)
	defer p.stop()
	for range 10 {
		// There is room for one stream only, so each has to go before the next.
		c, s := p.open(t)
		s.CloseWrite()
		io.Copy(io.Discard, c)
		c.Reset()
		s.Close()
	}
	if n := p.client.Stats().Streams; n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

func TestManyOpenAtOnce(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 0)
	defer p.stop()
	const openers, each = 32, 50
	failed := make(chan error, openers)
	for range openers {
		go func() {
			for range each {
				s, err := p.client.Open(t.Context())
				if err != nil {
					failed <- err
					return
				}
				s.Write([]byte("x"))
				s.Close()
			}
			failed <- nil
		}()
	}
	for range openers * each {
		select {
		case s := <-p.accepted:
			s.Close()
		case <-p.server.Done():
			t.Fatal(p.server.Err())
		}
	}
	for range openers {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

func TestDrainLetsStreamsEnd(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 0)
	defer p.stop()
	c, s := p.open(t)
	drained := make(chan error, 1)
	go func() { drained <- p.server.Drain(t.Context()) }()
	<-p.client.Draining()
	if _, err := p.client.Open(t.Context()); !errors.Is(err, tunnel.ErrDraining) {
		t.Errorf("Open = %v, want ErrDraining", err)
	}
	go func() { s.Write([]byte("still here")); s.Close() }()
	if got, err := io.ReadAll(c); string(got) != "still here" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	c.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}
