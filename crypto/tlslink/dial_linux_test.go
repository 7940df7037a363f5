package tlslink

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blackHole is a port on an address that swallows every attempt to connect: a
// listener whose queue is full.
func blackHole(t *testing.T, at netip.AddrPort) {
	t.Helper()
	to := &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	open := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	ln := open()
	if err := errors.Join(unix.Bind(ln, to), unix.Listen(ln, 0)); err != nil {
		t.Fatal(err)
	}
	for range 3 { // more than it takes
		if err := unix.Connect(open(), to); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
}

func TestBlackHolesCostOneDelayEach(t *testing.T) {
	e := start(t, &Server{}, nobody)
	port := netip.MustParseAddrPort(e.address).Port()
	for _, hole := range addrs("127.0.0.2 127.0.0.3") {
		blackHole(t, netip.AddrPortFrom(hole, port))
	}
	d, _ := e.named(t, "chrome", "127.0.0.2 127.0.0.3 127.0.0.1")
	begun := time.Now()
	reachable(t, d)
	if took := time.Since(begun); took < 2*attemptDelay || took > 5*time.Second {
		t.Errorf("the first time took %v", took)
	}
	if got := d.known[0]; got != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("the next time %v goes first", got)
	}
}
