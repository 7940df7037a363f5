package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/nowait"
	"github.com/adit-net/adit/tunnel/socks"
)

// silentTarget listens where nobody is answered until accept is called.
func silentTarget(t *testing.T) (at netip.AddrPort, accept func()) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(own.(*unix.SockaddrInet4).Port))
	first, err := net.Dial("tcp", at.String()) // is the only one that there is room for
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.Close() })
	return at, func() {
		if c, _, err := unix.Accept(fd); err == nil {
			unix.Close(c)
		}
	}
}

func TestDialWaitsNoLongerThanItMay(t *testing.T) {
	at, _ := silentTarget(t)
	for _, test := range []struct {
		name    string
		timeout time.Duration
		cancel  bool
		want    socks.Code
	}{
		{"its own limit", 50 * time.Millisecond, false, socks.TimedOut},
		{"the caller", time.Minute, true, socks.GeneralFailure},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if test.cancel {
			time.AfterFunc(50*time.Millisecond, cancel)
		}
		began := time.Now()
		e := &Exit{Allow: Allow{Loopback: true}, Timeout: test.timeout}
		_, _, err := e.Connect(ctx, connectTo(t, at.Addr().String(), at.Port()))
		cancel()
		if err == nil || socks.CodeOf(err) != test.want || test.cancel != errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", test.name, err)
		}
		if took := time.Since(began); took < 50*time.Millisecond || took > 10*time.Second {
			t.Errorf("%s: it took %v", test.name, took)
		}
	}
}

func TestDialAwaitsATargetThatAnswersLate(t *testing.T) {
	at, accept := silentTarget(t)
	time.AfterFunc(50*time.Millisecond, accept) // there is room for one more now, who asks again in a second
	e := &Exit{Allow: Allow{Loopback: true}, Timeout: 2 * time.Second}
	began := time.Now()
	conn, reply, err := e.Connect(t.Context(), connectTo(t, at.Addr().String(), at.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, ours := conn.(*nowait.Conn); !ours || reply.Bound.Port() == 0 || reply.Bound.String() != conn.LocalAddr().String() {
		t.Errorf("the reply is %+v for a %T", reply, conn)
	}
	time.Sleep(time.Until(began.Add(e.Timeout + 50*time.Millisecond)))
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Error("the limit of the dial is still there:", err)
	}
}

func TestPlainSocketsAreSetUpAsThoseOfPackageNet(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		at := l.Addr().(*net.TCPAddr).AddrPort()
		e := &Exit{Allow: Allow{Loopback: true}}
		plain, err := e.dial(t.Context(), socks.Request{}, at, wishes{})
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		other, err := e.dial(t.Context(), socks.Request{}, at, wishes{options: []socks.StackOption6{{Leg: socks.ClientLeg6}}})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		for _, o := range []struct{ level, name int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT}, {unix.SOL_SOCKET, unix.SO_LINGER},
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, {unix.SOL_SOCKET, unix.SO_BROADCAST}, {unix.SOL_SOCKET, unix.SO_REUSEADDR},
		} {
			if a, b := option(t, plain, o.level, o.name), option(t, other, o.level, o.name); a != b {
				t.Errorf("option %d of level %d is %d, and %d for package net", o.name, o.level, a, b)
			}
		}
		flags := func(c any) (both [2]int) {
			raw, err := c.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) {
				both[0], _ = unix.FcntlInt(fd, unix.F_GETFL, 0)
				both[1], _ = unix.FcntlInt(fd, unix.F_GETFD, 0)
			})
			return both
		}
		if a, b := flags(plain), flags(other); a != b {
			t.Errorf("the flags are %v, and %v for package net", a, b)
		}
	}
}

// option is the value of a socket's option, and of its errors.
func option(t *testing.T, c any, level, name int) [2]int {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value [2]int
	err = raw.Control(func(fd uintptr) {
		if name == unix.SO_LINGER && level == unix.SOL_SOCKET {
			l, _ := unix.GetsockoptLinger(int(fd), level, name)
			value = [2]int{int(l.Onoff), int(l.Linger)}
			return
		}
		n, err := unix.GetsockoptInt(int(fd), level, name)
		value[0] = n
		if err != nil {
			value[1] = 1
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestConnectionsOneAfterTheOtherAreWaitedForByOneGoroutine(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	port, _ := echo(t, "127.0.0.1:0")
	var one string
	for i := range 3 {
		stream := g.connect(port)
		exchange(t, stream, "hello")
		if i == 0 {
			one = waiting(t)
		}
		h.must(stream.Close())
		for deadline := time.Now().Add(patience); len(h.log.find(t, "flow ended")) <= i; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the flow does not end")
			}
		}
		if now := waiting(t); one == "" || now != one {
			t.Errorf("after connection %d there is %q, not %q", i, now, one)
		}
	}
	h.stop()
	for range 100 { // what has ended may be seen for a moment
		if waiting(t) == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the server has ended, and", waiting(t), "is still there")
}

// waiting names the goroutine that waits for plain connections; "" if there is none.
func waiting(t *testing.T) (name string) {
	t.Helper()
	all := make([]byte, 1<<20)
	for one := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(one, "nowait.(*poller).run(") {
			if name != "" {
				t.Fatal("there are two")
			}
			name, _, _ = strings.Cut(one, " [")
		}
	}
	return name
}
