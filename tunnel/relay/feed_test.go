package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
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
