//go:build unix

package server

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestConnectPassesOverAnAddressThatStalls(t *testing.T) {
	port, from := echo(t, "127.0.0.3:0")
	stall(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port))
	e := &Exit{Allow: Allow{Loopback: true}, Resolver: &answers{addrs: addrs("127.0.0.2", "127.0.0.3")}}
	began := time.Now()
	conn, _, err := e.Connect(t.Context(), connectTo(t, "x.example", port))
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < attemptDelay {
		t.Errorf("took %v: the first address did not stall", took)
	}
	<-from
	roundTrip(t, conn)

	e.Resolver, e.Timeout = &answers{addrs: addrs("127.0.0.2")}, 100*time.Millisecond
	if _, _, err := e.Connect(t.Context(), connectTo(t, "x.example", port)); socks.CodeOf(err) != socks.TimedOut {
		t.Errorf("with no other address: %v", err)
	}
}

// stall listens on an address where nobody is ever accepted, and fills the
// queue, so that the kernel leaves further attempts without an answer.
func stall(t *testing.T, at netip.AddrPort) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		c, err := net.DialTimeout("tcp", at.String(), 100*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue takes them all")
}
