package ipsec

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// This kernel may have no ESP, but it knows when there is nothing to send by.
func TestSocketThatIsTiedToAssociationsSendsNothingWithoutThem(t *testing.T) {
	esp := template{protocol: unix.IPPROTO_ESP, mode: modeTunnel, reqID: 7}
	for network, remote := range map[string]string{"tcp4": "10.1.0.2:80", "tcp6": "[2001:db8::2]:80"} {
		there, here := netip.MustParseAddrPort(remote).Addr(), netip.MustParseAddr("10.1.0.1")
		if there.Is6() {
			here = netip.MustParseAddr("2001:db8::1")
		}
		out, in := esp, esp
		out.src, out.dst, in.src, in.dst = here, there, there, here
		p := Protection{Mechanism: Kernel, hold: hold{out: out, in: in}}
		dialer := net.Dialer{
			Timeout: 30 * time.Second,
			Control: func(_, _ string, c syscall.RawConn) error { return p.tie(c) },
		}
		c, err := dialer.Dial(network, remote)
		if !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: %v, %v", network, c, err)
		}
	}
}

func TestSocketForBothVersionsIsNotTiedToAssociations(t *testing.T) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	ln, err := config.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := (Protection{Mechanism: Kernel}).tie(raw); !errors.Is(err, errDualStack) {
		t.Error(err)
	}
}

func TestMultipathSocketIsNotTied(t *testing.T) {
	var config net.ListenConfig
	config.SetMultipathTCP(true)
	ln, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := (Protection{Mechanism: Interface, hold: hold{device: 1}}).tie(raw); !errors.Is(err, errMultipath) {
		t.Error(err)
	}
}

// When the association ends, its route goes; there is another one here, which takes
// packets in clear. What is in a socket then must not go that way.
func TestNothingLeavesATiedSocketInClear(t *testing.T) {
	s := startStrongSwan(t, protectedHere+"/32", protectedThere+"/32")
	if err := ip("-n there route add " + protectedHere + " via " + outerHere); err != nil {
		t.Fatal(err)
	}
	ln := listenThere(t, protectedThere+":0")
	go echoAll(ln)
	d := &Detector{VICI: s.vici("here")}
	guarded := net.Dialer{Timeout: 30 * time.Second, ControlContext: d.Control}
	if c, err := guarded.Dial("tcp", ln.Addr().String()); !errors.Is(err, ErrUnprotected) {
		t.Fatalf("before there is an association: %v, %v", c, err)
	}

	s.swanctl("here", "--initiate", "--child", "c")
	tied, err := guarded.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tied.Close()
	exchange(t, tied, "protected")
	clear := watchWire(t, "c0")
	s.swanctl("here", "--terminate", "--ike", "t")
	if _, err := io.WriteString(tied, "not in clear"); err != nil {
		t.Fatal(err)
	}
	loose, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, loose, "in clear")
	loose.Close()

	s.swanctl("here", "--initiate", "--child", "c")
	read(t, tied, "not in clear")
	exchange(t, tied, "protected again")
	port := tied.LocalAddr().(*net.TCPAddr).Port
	if n := clear[port].Load(); n > 0 {
		t.Errorf("%d packets of the tied connection were in clear", n)
	}
	if n := clear[loose.LocalAddr().(*net.TCPAddr).Port].Load(); n == 0 {
		t.Error("the other one's were not seen")
	}
}

// listenThere listens in the other namespace.
func listenThere(t *testing.T, address string) net.Listener {
	t.Helper()
	type result struct {
		ln  net.Listener
		err error
	}
	results := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		f, err := os.Open("/run/netns/there")
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		var ln net.Listener
		if err == nil {
			ln, err = new(net.ListenConfig).Listen(context.Background(), "tcp", address)
		}
		results <- result{ln, err}
	}()
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.ln.Close() })
	return r.ln
}

func echoAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func exchange(t *testing.T, c net.Conn, words string) {
	t.Helper()
	if _, err := io.WriteString(c, words); err != nil {
		t.Fatal(err)
	}
	read(t, c, words)
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v", got, err)
	}
}

// watchWire counts the packets of TCP over IPv4 that an interface sees in clear, by their
// ports, until the test ends.
func watchWire(t *testing.T, name string) *[1 << 16]atomic.Int32 {
	t.Helper()
	dev, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	all := int(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: dev.Index}); err != nil {
		t.Fatal(err)
	}
	wire := os.NewFile(uintptr(fd), name)
	ended := make(chan struct{})
	var seen [1 << 16]atomic.Int32
	go func() {
		defer close(ended)
		for b := make([]byte, 1<<16); ; {
			n, err := wire.Read(b)
			if err != nil {
				return
			}
			const header = 14
			if n < header+24 || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_IP || b[header+9] != unix.IPPROTO_TCP {
				continue
			}
			ports := b[header+4*int(b[header]&0xf):]
			seen[binary.BigEndian.Uint16(ports)].Add(1)
			seen[binary.BigEndian.Uint16(ports[2:])].Add(1)
		}
	}()
	t.Cleanup(func() { wire.Close(); <-ended })
	return &seen
}

// It may have been sent to in clear before it was accepted.
func TestGuardRefusesWhatIsOlderThanTheAssociation(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	raw, err := s.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		age, ok := ageOf(raw)
		if ok && age > 10*time.Millisecond && age < 30*time.Second {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it is said to be %v old, %t", age, ok)
		}
	}
	now := time.Now()
	for _, c := range []struct {
		since time.Time
		age   time.Duration
		want  bool
	}{
		{now, 10 * time.Second, true},
		{now, time.Second / 2, false},
		{now.Add(-time.Minute), 10 * time.Second, false},
		{now.Add(-time.Minute), 2 * time.Minute, true},
		{time.Time{}, time.Hour, false},
	} {
		if got := (Protection{Since: c.since}).youngerThan(c.age); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
