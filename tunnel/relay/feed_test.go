package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// fed is a source of bytes that offers them in a goroutine of its own.
type fed struct {
	net.Conn
	offered chan []byte
	rest    []byte
	over    bool
}

func (f *fed) Await(take func(b []byte) int, again func()) bool {
	if len(f.rest) > 0 || f.over {
		return false
	}
	go func() {
		for len(f.rest) == 0 && !f.over {
			b, ok := <-f.offered
			if f.over = !ok; ok {
				f.rest = b[take(b):]
			}
		}
		again()
	}()
	return true
}

func (f *fed) Withdraw() {}

func (f *fed) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *fed) CloseWrite() error { return f.Conn.(*net.TCPConn).CloseWrite() }

func (f *fed) Reset() error {
	f.Conn.(*net.TCPConn).SetLinger(0)
	return f.Close()
}

// feed begins a Copy from a fed source to a socket, of which it gives the other end, and the
// other end of what the source writes to.
func feed(t *testing.T) (f *fed, to, back *net.TCPConn, result chan Result) {
	t.Helper()
	back, own := tcpPair(t)
	to, b := tcpPair(t)
	own.SetDeadline(time.Time{})
	b.SetDeadline(time.Time{})
	f = &fed{Conn: own, offered: make(chan []byte)}
	result = make(chan Result, 1)
	go func() { result <- Copy(t.Context(), f, TCP(b)) }()
	return f, to, back, result
}

func TestWhatIsTakenAndWhatIsReadKeepTheirOrder(t *testing.T) {
	f, to, back, result := feed(t)
	var sent bytes.Buffer
	go func() {
		random := rand.NewChaCha8([32]byte{})
		for range 1000 {
			b := make([]byte, 1+rand.IntN(30_000))
			random.Read(b)
			sent.Write(b)
			f.offered <- b
		}
		close(f.offered)
	}()
	// It is slow now and then, so that the socket does not take everything.
	var got bytes.Buffer
	for {
		n, err := io.CopyN(&got, to, 2<<20)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(n, err)
		}
		time.Sleep(time.Millisecond)
	}
	to.Close()
	expectEnd(t, back)
	if r := <-result; r.Err != nil || r.Up != int64(sent.Len()) || !bytes.Equal(got.Bytes(), sent.Bytes()) {
		t.Errorf("%d bytes arrive of %d, or others: %+v", got.Len(), sent.Len(), r)
	}
}

func TestResetThatTakingMeetsIsPassedOn(t *testing.T) {
	f, to, back, result := feed(t)
	f.offered <- []byte("first")
	expect(t, to, "first")
	to.SetLinger(0)
	to.Close()
	expectReset(t, back)
	close(f.offered)
	if r := <-result; !errors.Is(r.Err, syscall.ECONNRESET) && !errors.Is(r.Err, errReset) {
		t.Errorf("%+v", r)
	}
}

// valve is a pacer that lets everything pass, and may be asked whether it does.
type valve struct {
	free
	open  atomic.Bool
	asked atomic.Int64 // bytes
}

func (v *valve) Open() bool { return v.open.Load() }

func (v *valve) PaceWrite(n int) (int, error) {
	v.asked.Add(int64(n))
	return n, nil
}

// noting is a conn that wants to know what is written, or to write it itself.
type noting struct {
	tcpConn
	enough  atomic.Bool
	noted   atomic.Int64
	written atomic.Int64
}

func (c *noting) DidRead([]byte)    {}
func (c *noting) DidWrite(b []byte) { c.noted.Add(int64(len(b))) }
func (c *noting) WillNote() bool    { return c.enough.Load() }
func (c *noting) Write(b []byte) (int, error) {
	c.written.Add(int64(len(b)))
	return c.tcpConn.Write(b)
}

func TestNothingIsTakenPastWhoWantsToSeeIt(t *testing.T) {
	back, own := tcpPair(t)
	to, b := tcpPair(t)
	own.SetDeadline(time.Time{})
	b.SetDeadline(time.Time{})
	f := &fed{Conn: own, offered: make(chan []byte)}
	pacer, target := &valve{}, &noting{tcpConn: TCP(b).(tcpConn)}
	result := make(chan Result, 1)
	go func() { result <- Copy(t.Context(), f, Paced(target, pacer)) }()
	for i, step := range []struct {
		open, enough          bool
		asked, noted, written int64 // in all, a byte a step
	}{
		{false, false, 1, 0, 1},
		{true, false, 2, 0, 2},
		{false, true, 3, 0, 3},
		{true, true, 3, 1, 3},
		{false, true, 4, 1, 4},
		{true, true, 4, 2, 4},
	} {
		pacer.open.Store(step.open)
		target.enough.Store(step.enough)
		f.offered <- []byte("x")
		expect(t, to, "x")
		for target.noted.Load()+target.written.Load() < int64(i)+1 {
			runtime.Gosched() // it is told when the byte has gone
		}
		if a, n, w := pacer.asked.Load(), target.noted.Load(), target.written.Load(); a != step.asked || n != step.noted || w != step.written {
			t.Errorf("step %d: %d asked for, %d noted, %d written, want %+v", i, a, n, w, step)
		}
	}
	close(f.offered)
	expectEnd(t, to)
	to.Close()
	expectEnd(t, back)
	if r := <-result; r.Err != nil || r.Up != 6 {
		t.Errorf("%+v", r)
	}
}
