package server

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
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
	stream.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		if _, err := stream.Write(make([]byte, 1<<20)); errors.Is(err, os.ErrDeadlineExceeded) {
			return stream
		} else if err != nil {
			t.Fatal(err)
		}
	}
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
