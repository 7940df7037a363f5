package relay

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
)

// A reset is told once by a socket: to whoever writes, or to whoever reads.
func TestResetIsNoEndForTheReaderIfAWriteHasTakenTheError(t *testing.T) {
	tests := []struct {
		name      string
		end       bool // the peer ends its direction before it resets
		writeErr  error
		wantReset bool
	}{
		{name: "reset", writeErr: syscall.ECONNRESET, wantReset: true},
		{name: "end and then reset", end: true, writeErr: syscall.EPIPE, wantReset: false},
	}
	for _, test := range tests {
		for _, prefix := range []string{"", "read ahead"} {
			t.Run(test.name+" "+prefix, func(t *testing.T) {
				conn, peer := tcpPair(t)
				e := newEnd(WithPrefix(TCP(conn), []byte(prefix)))
				send(t, peer, "data")
				if test.end {
					peer.CloseWrite()
				}
				if e.wasReset() {
					t.Error("it was reset before it was reset")
				}
				peer.SetLinger(0)
				peer.Close()
				waitGone(t, e)
				if err := e.write([]byte("x")); !errors.Is(err, test.writeErr) {
					t.Fatalf("write: %v, want %v", err, test.writeErr)
				}
				var r reader
				r.read(e)
				defer r.release()
				var got []byte
				for {
					p, err := r.next()
					got = append(got, p...)
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if string(got) != prefix+"data" {
					t.Errorf("read %q", got)
				}
				if e.wasReset() != test.wantReset {
					t.Errorf("it was reset: %v, want %v", !test.wantReset, test.wantReset)
				}
			})
		}
	}
}

// waitGone waits for a reset to arrive. To ask the socket for it would take the error away.
func waitGone(t *testing.T, e *end) {
	t.Helper()
	for deadline := time.Now().Add(patience); !Gone(e.Conn); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the reset does not arrive")
		}
	}
}

// held is a conn whose writes wait until they may go.
type held struct {
	Conn
	began chan struct{}
	may   chan struct{} // closed when they may
}

func (c *held) Write(p []byte) (int, error) {
	select {
	case c.began <- struct{}{}:
	case <-c.may:
	}
	<-c.may
	return c.Conn.Write(p)
}

// noted is a socket that tells what became of a write.
type noted struct {
	tcpConn
	wrote chan error
}

func (c *noted) Write(p []byte) (int, error) {
	n, err := c.tcpConn.Write(p)
	c.wrote <- err
	return n, err
}

// The whole of it: the writer takes the error while the reader waits for its
// turn, and the one who listens must not take what is there for everything.
func TestCopyNeverTurnsAResetIntoAnEnd(t *testing.T) {
	left, near := tcpPair(t)
	right, far := tcpPair(t)
	a := &noted{tcpConn: TCP(near).(tcpConn), wrote: make(chan error, 1)}
	b := &held{Conn: TCP(far), began: make(chan struct{}), may: make(chan struct{})}
	r := running{result: make(chan Result, 1)}
	go func() { r.result <- Copy(t.Context(), a, b) }()

	send(t, left, "what is held, ")
	<-b.began // Copy does not read from the left any more
	send(t, left, "and what comes behind it")
	left.SetLinger(0)
	left.Close()
	waitGone(t, newEnd(a))
	send(t, right, "x")
	if err := <-a.wrote; !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("write: %v, want the error that there is to take", err)
	}
	close(b.may)
	expect(t, right, "what is held, and what comes behind it")
	expectReset(t, right)
	if got := r.end(t); got.Err == nil {
		t.Errorf("result %+v", got)
	}
}

func TestCopyPassesOnAnEndThatAResetFollows(t *testing.T) {
	r := start(t, "")
	send(t, r.left, "all there is")
	r.left.CloseWrite()
	r.left.SetLinger(0)
	r.left.Close()
	expect(t, r.right, "all there is")
	expectEnd(t, r.right)
	// Nobody takes an answer.
	for {
		if _, err := r.right.Write([]byte("answer")); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("nobody says that the answer does not arrive")
			}
			break
		}
	}
	if got := r.end(t); !errors.Is(got.Err, syscall.EPIPE) {
		t.Errorf("result %+v", got)
	}
}

func newEnd(c Conn) *end {
	e := new(end)
	e.init(c)
	return e
}
