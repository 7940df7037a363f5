package socks

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDoorAdmitsProcessesOfItsOwnUser(t *testing.T) {
	door := openDoor(t, &Door{Relay: &recorder{}})
	_, all := start(t, "app "+door, os.Getuid())
	for i, answer := range all() {
		if want := hex.EncodeToString([]byte(askings[i].yes)); !strings.HasPrefix(answer, want) {
			t.Errorf("%q: the answer is %s, want %s", askings[i].request, answer, want)
		}
	}
}

func TestDoorRefusesOtherLocalUsers(t *testing.T) {
	var log lines
	door := openDoor(t, &Door{Relay: never{t: t}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	_, all := start(t, "app "+door, anotherUser)
	answers := all()
	if len(answers) != len(askings) {
		t.Fatalf("the app has heard %q", answers)
	}
	for i, answer := range answers {
		if got, _ := hex.DecodeString(answer); !saysNo(got) {
			t.Errorf("%q: the answer is %q", askings[i].request, got)
		}
	}
	if want := fmt.Sprintf("another user (uid %d)", anotherUser); !log.contain(want) {
		t.Errorf("the log does not say %q", want)
	}
}

func TestDoorRefusesRootWhereItsUserIsAnother(t *testing.T) {
	door, all := start(t, "door", anotherUser)
	defer all()
	for _, a := range askings {
		answer, err := ask(door, a.request)
		if err != nil || !saysNo(answer) {
			t.Errorf("%q: the answer is %q (%v)", a.request, answer, err)
		}
	}
}

// saysNo tells whether these are the first bytes that a refused app hears.
func saysNo(answer []byte) bool {
	for _, no := range []string{"\x05\xff", "\x00\x5b\x00\x00\x00\x00\x00\x00", "HTTP/1.1 403"} {
		if strings.HasPrefix(string(answer), no) {
			return true
		}
	}
	return false
}

func TestUsersAreFoundForEverySpellingOfAnAddress(t *testing.T) {
	for listener, sockets := range map[string][]unix.Sockaddr{
		"127.0.0.1:0": {&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, &unix.SockaddrInet6{Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}},
		"127.9.9.9:0": {&unix.SockaddrInet4{Addr: [4]byte{127, 9, 9, 9}}},
		"[::1]:0":     {&unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}},
		"[::]:0":      {&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}},
	} {
		ln := listen(t, listener)
		for _, to := range sockets {
			port := ln.Addr().(*net.TCPAddr).Port
			family := unix.AF_INET
			switch to := to.(type) {
			case *unix.SockaddrInet4:
				to.Port = port
			case *unix.SockaddrInet6:
				to.Port, family = port, unix.AF_INET6
			}
			fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Connect(fd, to); err != nil {
				t.Fatal(err)
			}
			if err := checkUser(accept(t, ln)); err != nil {
				t.Errorf("%s, %T: %v", listener, to, err)
			}
			unix.Close(fd)
		}
	}
}

// reusable connects an app whose port is nobody else's and can be used again at
// once, and gives the door's end too.
func reusable(t *testing.T) (app, door *net.TCPConn) {
	t.Helper()
	ln := listen(t, "127.0.0.1:0")
	dialer := net.Dialer{LocalAddr: addr(t, "127.77.0.1:0"), Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}}
	c, err := dialer.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	door = accept(t, ln)
	if err := checkUser(door); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), door
}

func TestAppsThatHaveClosedTheirSocketAreRefused(t *testing.T) {
	app, door := reusable(t)
	app.CloseWrite()
	if err := checkUser(door); err != nil {
		t.Errorf("an app that has ended one direction is refused: %v", err)
	}
	app.Close()
	if err := checkUser(door); err == nil {
		t.Error("an app that has closed its socket is admitted")
	}
}

func TestListenersAreNotTakenForAppsThatHaveGone(t *testing.T) {
	app, door := reusable(t)
	app.SetLinger(0)
	app.Close()
	if err := checkUser(door); !errors.Is(err, unix.ENOENT) {
		t.Errorf("an app that is gone: %v", err)
	}
	other := listen(t, app.LocalAddr().String())
	if err := checkUser(door); err == nil {
		t.Errorf("the listener at %v is taken for the app", other.Addr())
	}
}

func TestSocketsAreFoundByBothAddresses(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	app := dial(t, ln.Addr().String())
	local, remote := unmapped(app.LocalAddr().(*net.TCPAddr).AddrPort()), unmapped(app.RemoteAddr().(*net.TCPAddr).AddrPort())
	s, err := findSocket(unix.IPPROTO_TCP, local, remote)
	if err != nil || s.local != local || s.remote != remote || s.uid != uint32(os.Getuid()) || s.inode == 0 {
		t.Errorf("%v to %v: found %+v (%v)", local, remote, s, err)
	}
	// The same ports at other addresses: a look-up by ports alone would find it.
	elsewhere := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), local.Port())
	if s, err := findSocket(unix.IPPROTO_TCP, elsewhere, remote); !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v to %v: found %+v (%v)", elsewhere, remote, s, err)
	}
}

func TestOnlyLoopbackTellsUsers(t *testing.T) {
	app := newScript()
	for _, a := range []net.Addr{addr(t, "192.0.2.1:1"), addr(t, "[2001:db8::1]:1"), &net.UnixAddr{}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}} {
		app.remote = a
		if err := checkUser(app); err == nil {
			t.Errorf("%v is admitted", a)
		}
	}
}

func TestAnswersOfTheKernelMayBeAnything(t *testing.T) {
	for n := range 100 {
		for _, fill := range []byte{0, 2, 20, 0xff} {
			b := make([]byte, n)
			for i := range b {
				b[i] = fill
			}
			if s, err := parseDiag(b); err == nil && s != (diagSocket{}) {
				t.Errorf("%d bytes of %d: %+v", n, fill, s)
			}
		}
	}
}

func TestAnswersToEarlierQuestionsAreNotTaken(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	app := dial(t, ln.Addr().String())
	local, remote := unmapped(app.LocalAddr().(*net.TCPAddr).AddrPort()), unmapped(app.RemoteAddr().(*net.TCPAddr).AddrPort())
	d, err := openDiag()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ask(unix.IPPROTO_TCP, local, remote); err != nil {
		t.Fatal(err)
	}
	// Asked once more, and the answer is left where it is.
	if _, err := unix.Write(d.fd, d.question[:]); err != nil {
		t.Fatal(err)
	}
	if answer, err := d.ask(unix.IPPROTO_TCP, remote, local); err == nil {
		s, err := parseDiag(answer)
		t.Errorf("asked for %v, found %+v (%v)", remote, s, err)
	}
}

func BenchmarkCheckUser(b *testing.B) {
	ln := listen(b, "127.0.0.1:0")
	dial(b, ln.Addr().String())
	door := accept(b, ln)
	b.ReportAllocs()
	for b.Loop() {
		if err := checkUser(door); err != nil {
			b.Fatal(err)
		}
	}
}
