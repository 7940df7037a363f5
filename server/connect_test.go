package server

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// TestLastWordsOfAnAppReachTheTarget does it often: what the app sent before
// it reset the connection and the reset itself race.
func TestLastWordsOfAnAppReachTheTarget(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	const words = "that was all"
	heard := make(chan error, 1)
	port := target(t, func(c *net.TCPConn) {
		got, err := io.ReadAll(c)
		if err == nil || string(got) != words {
			err = errors.New("the target reads " + string(got) + " and no reset")
		}
		heard <- err
	})
	for range 50 {
		stream := g.connect(port)
		_, err := io.WriteString(stream, words)
		h.must(err)
		h.must(stream.Reset())
		if err := receive(t, heard, "the app's end"); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	}
}

// stalled gives a stream whose target reads nothing and which nothing more
// can be written to.
func stalled(t *testing.T, g *guest) *tunnel.Stream {
	t.Helper()
	over := make(chan struct{})
	port := target(t, func(*net.TCPConn) { <-over })
	t.Cleanup(func() { close(over) }) // before the target's own clean-up, which waits for it
	stream := g.connect(port)
	for still := 0; still < 2; { // twice in a row: once, it may be this machine that is busy
		stream.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := stream.Write(make([]byte, 1<<20))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if still++; n > 0 {
			still = 0
		}
	}
	return stream
}

func TestTargetHasLastWordsForAWhileOnly(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	stream := stalled(t, g)
	began := time.Now()
	h.must(stream.Reset())
	for len(h.log.find(t, "flow ended")) == 0 {
		if time.Since(began) > patience {
			t.Fatal("the flow does not end")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if took := time.Since(began); took < lastWords {
		t.Errorf("the target has %v, want %v", took, lastWords)
	}
}

func TestEndOfASessionWaitsForNoTarget(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	// One that has been reset already waits for its target.
	h.must(stalled(t, g).Reset())
	stalled(t, g)
	began := time.Now()
	g.Close(0)
	receive(t, g.served, "the end of the session")
	if took := time.Since(began); took > lastWords/2 {
		t.Errorf("the session ends after %v", took)
	}
}

func TestFirstBytesComeWithTheRequestAndCount(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	port, got := firstBytes(t, "127.0.0.1:0")
	stream, err := g.Open(t.Context())
	h.must(err)
	stream.SetDeadline(time.Now().Add(patience))
	b, err := socks.Request6{Command: socks.Connect, Dst: onLoopback(port), Options: socks.Options6{
		Offer: &socks.MethodOffer6{InitialData: 5},
		Stack: []socks.StackOption6{wish(socks.StackHappyEyeballs6, socks.StackOn6), wish(socks.StackMultipath6, socks.StackOff6)},
	}}.AppendBinary(nil)
	h.must(err)
	_, err = stream.Write(append(b, "early and late"...))
	h.must(err)
	h.must(stream.CloseWrite())
	if s := receive(t, got, "what the target got"); s != "early and late" {
		t.Errorf("the target gets %q", s)
	}
	_, err = socks.ReadAuthReply6(stream)
	h.must(err)
	reply, err := socks.ReadOperationReply6(stream)
	h.must(err)
	if want := []socks.StackOption6{wish(socks.StackMultipath6, socks.StackOff6)}; !slices.Equal(reply.Options.Stack, want) {
		t.Errorf("done: %v, want %v", reply.Options.Stack, want)
	}
	expectEOF(t, stream)
	for deadline := time.Now().Add(patience); len(h.log.find(t, "flow ended")) == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if ended := h.log.find(t, "flow ended"); len(ended) != 1 || ended[0]["up"] != float64(len("early and late")) {
		t.Errorf("the log says %v", ended)
	}
}

func expectEOF(t *testing.T, r io.Reader) {
	t.Helper()
	if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
		t.Errorf("read %q, %v; want a clean end", b, err)
	}
}
