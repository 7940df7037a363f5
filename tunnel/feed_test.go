package tunnel_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"

	"github.com/adit-net/adit/tunnel/tunneltest"
)

// TestWhatIsTakenOnTheWayAndWhatIsReadAreOneStream reads by offers that are taken in full, in
// part and not at all.
func TestWhatIsTakenOnTheWayAndWhatIsReadAreOneStream(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 0)
	defer p.stop()
	from, to := p.open(t)
	sent := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(sent)
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(1+rand.IntN(40_000), len(rest))
			if _, err := from.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		from.CloseWrite()
	}()
	var got bytes.Buffer
	var waiting atomic.Bool
	taken := 0
	take := func(b []byte) int {
		if !waiting.Load() {
			t.Error("something is offered to nobody")
		}
		n := len(b) - max(0, rand.IntN(2*len(b))-len(b))
		got.Write(b[:n])
		taken += n
		return n
	}
	called := make(chan struct{})
	for buf := make([]byte, 10_000); ; {
		waiting.Store(true)
		if to.Await(take, func() { go func() { called <- struct{}{} }() }) {
			<-called
		}
		to.Withdraw()
		waiting.Store(false)
		n, err := to.Read(buf)
		got.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got.Bytes(), sent) || taken == 0 {
		t.Errorf("%d bytes of %d, or others, %d of them taken", got.Len(), len(sent), taken)
	}
}

// TestWhoTakesMayResetTheStream as somebody does who counts bytes and has seen enough.
func TestWhoTakesMayResetTheStream(t *testing.T) {
	x, y := tunneltest.Link(tunneltest.Path{})
	p := newPair(t, x, y, 0)
	defer p.stop()
	from, to := p.open(t)
	called := make(chan struct{}, 1)
	if !to.Await(func(b []byte) int { to.Reset(); return len(b) }, func() { called <- struct{}{} }) {
		t.Fatal("there is something to read before anybody has said anything")
	}
	if _, err := from.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	awaitCall(t, called)
	to.Withdraw()
	if _, err := to.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read gives %v", err)
	}
}
