package main

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// fill writes until nothing more fits between c and its peer, who reads
// nothing.
func fill(t *testing.T, c net.Conn) {
	t.Helper()
	for {
		c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Write(make([]byte, 1<<20)); errors.Is(err, os.ErrDeadlineExceeded) {
			c.SetWriteDeadline(time.Now().Add(fidelityLimit))
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// wantBroken checks that writing fails because the connection was reset.
func wantBroken(t *testing.T, who string, c net.Conn) {
	t.Helper()
	for {
		if _, err := c.Write(make([]byte, 16<<10)); errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			return
		} else if err != nil {
			t.Fatalf("the %s writes until %v, want a reset", who, err)
		}
	}
}

// wantReset checks that reading ends with a reset, whatever comes before.
func wantReset(t *testing.T, who string, c net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the %s reads %d bytes and then %v, want a reset", who, n, err)
	}
}

// TestResetReachesWhoOnlyWrites is about those who do not read, and so can
// learn of a reset only by their writes.
func TestResetReachesWhoOnlyWrites(t *testing.T) {
	c := startChain(t)
	for _, writer := range []side{app, target} {
		t.Run(writer.String(), func(t *testing.T) {
			conns := c.sides(t)
			begun := make(chan struct{})
			go func() {
				io.CopyN(io.Discard, conns[writer.other()], 1<<20)
				reset(conns[writer.other()])
				close(begun)
			}()
			wantBroken(t, writer.String(), conns[writer])
			wait(t, begun, "the reset")
		})
	}
}

// sides makes a pair, by side.
func (c *chain) sides(t *testing.T) [2]*net.TCPConn {
	t.Helper()
	p := c.pair(t)
	return [2]*net.TCPConn{app: p.app, target: p.target}
}

// TestResetCrossesAFullWindow is about resets while bytes stand still on the
// way, in the reset's own direction, against it, or in both.
func TestResetCrossesAFullWindow(t *testing.T) {
	c := startChain(t)
	for _, who := range []side{app, target} {
		other := who.other()
		t.Run(who.String()+" resets before it has read", func(t *testing.T) {
			conns := c.sides(t)
			fill(t, conns[other])
			reset(conns[who])
			wantBroken(t, other.String(), conns[other])
		})
		t.Run(who.String()+" resets behind what it has written", func(t *testing.T) {
			conns := c.sides(t)
			fill(t, conns[who])
			reset(conns[who])
			wantReset(t, other.String(), conns[other])
		})
		t.Run(who.String()+" resets while both wait", func(t *testing.T) {
			conns := c.sides(t)
			fill(t, conns[who])
			fill(t, conns[other])
			reset(conns[who])
			wantReset(t, other.String(), conns[other])
		})
		t.Run(who.String()+" resets after it has half-closed", func(t *testing.T) {
			conns := c.sides(t)
			conns[who].CloseWrite()
			if n, err := io.Copy(io.Discard, conns[other]); n > 0 || err != nil {
				t.Fatalf("the %s reads %d bytes and %v", other, n, err)
			}
			fill(t, conns[other])
			reset(conns[who])
			wantBroken(t, other.String(), conns[other])
		})
	}
}
