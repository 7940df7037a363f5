package server

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

func wish(kind socks.StackKind6, value uint16) socks.StackOption6 {
	return socks.StackOption6{Leg: socks.TargetLeg6, Kind: kind, Value: value}
}

// firstBytes listens, and gives what the next connection brings until its end.
func firstBytes(t testing.TB, address string) (port uint16, got chan string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	got = make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		got <- string(b)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), got
}

func TestConnectSendsTheFirstBytesFirst(t *testing.T) {
	for name, options := range map[string][]socks.StackOption6{
		"plain":               nil,
		"fast open":           {wish(socks.StackFastOpen6, 0)},
		"fast open, 5 bytes":  {wish(socks.StackFastOpen6, 5)},
		"fast open, too much": {wish(socks.StackFastOpen6, 60_000)},
	} {
		// The second connection has the cookie of the first, if the system gives one out.
		for range 2 {
			port, got := firstBytes(t, "127.0.0.1:0")
			e := &Exit{Allow: Allow{Loopback: true}}
			r := connectTo(t, "127.0.0.1", port)
			initial := strings.Repeat("early", 3000)
			r.Initial, r.Stack = []byte(initial), options
			conn, _, err := e.Connect(t.Context(), r)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := io.WriteString(conn, " and late"); err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if s := <-got; s != initial+" and late" {
				t.Errorf("%s: the target gets %d bytes, want %d", name, len(s), len(initial)+9)
			}
		}
	}
}

func TestConnectWithFirstBytesFailsLikeAnother(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	r := connectTo(t, "127.0.0.1", l.Addr().(*net.TCPAddr).AddrPort().Port())
	r.Initial, r.Stack = []byte("hello"), []socks.StackOption6{wish(socks.StackFastOpen6, 0)}
	_, _, err = (&Exit{Allow: Allow{Loopback: true}}).Connect(t.Context(), r)
	if socks.CodeOf(err) != socks.ConnectionRefused {
		t.Errorf("nobody is there, and Connect says %v", err)
	}
}

func TestConnectSendsNothingInASYNToSeveral(t *testing.T) {
	r := socks.Request{Initial: []byte("hello"), Stack: []socks.StackOption6{wish(socks.StackFastOpen6, 0)}}
	if wishesOf(r, 2).fast {
		t.Error("several hosts could get the first bytes")
	}
	r.Stack = append(r.Stack, wish(socks.StackMultipath6, socks.StackOn6))
	if wishesOf(r, 1).fast {
		t.Error("fast open over several paths")
	}
	if wishesOf(socks.Request{Initial: r.Initial}, 1).fast {
		t.Error("fast open that nobody has asked for")
	}
	if wishesOf(socks.Request{Stack: r.Stack}, 1).fast {
		t.Error("fast open with nothing to send")
	}
}

func TestConnectDoesNotWaitForEverForAReader(t *testing.T) {
	port, _ := echo(t, "127.0.0.1:0")
	e := &Exit{Allow: Allow{Loopback: true}}
	ctx, cancel := context.WithCancel(t.Context())
	conn, _, err := e.Connect(ctx, connectTo(t, "127.0.0.1", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Reset()
	cancel()
	if err := (wishes{initial: make([]byte, 64<<20)}).say(ctx, conn); err == nil {
		t.Error("sent, and its context has ended")
	}
}

func TestHappyEyeballsCanBeSwitchedOff(t *testing.T) {
	var began []string
	dial := func(_ context.Context, target netip.AddrPort) (relay.Conn, error) {
		began = append(began, target.Addr().String())
		if target.Port() == 3 {
			return struct{ relay.Conn }{}, nil
		}
		return nil, socks.HostUnreachable
	}
	var targets []netip.AddrPort
	for i, a := range addrs("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4") {
		targets = append(targets, netip.AddrPortFrom(a, uint16(i+1)))
	}
	if _, err := inTurn(t.Context(), targets, dial); err != nil {
		t.Error(err)
	}
	if want := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}; !slices.Equal(began, want) {
		t.Errorf("attempts at %v, want %v", began, want)
	}
	if _, err := inTurn(t.Context(), targets[:2], dial); socks.CodeOf(err) != socks.HostUnreachable {
		t.Errorf("%v", err)
	}
	off := socks.Request{Stack: []socks.StackOption6{wish(socks.StackHappyEyeballs6, socks.StackOff6)}}
	if wishesOf(off, 1).happyEyeballs() || !wishesOf(socks.Request{}, 1).happyEyeballs() {
		t.Error("what is asked for does not count")
	}
}

func TestConnectReportsMultipathAsItIs(t *testing.T) {
	port, _ := echo(t, "127.0.0.1:0") // Go's listeners take both kinds, where the system has them
	e := &Exit{Allow: Allow{Loopback: true}}
	for _, asked := range []uint16{socks.StackOn6, socks.StackOff6} {
		r := connectTo(t, "127.0.0.1", port)
		r.Stack = []socks.StackOption6{wish(socks.StackMultipath6, asked)}
		conn, reply, err := e.Connect(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		on, err := conn.(dialledConn).MultipathTCP()
		if err != nil {
			t.Fatal(err)
		}
		want := uint16(socks.StackOff6)
		if on {
			want = socks.StackOn6
		}
		if !slices.Equal(reply.Stack, []socks.StackOption6{wish(socks.StackMultipath6, want)}) {
			t.Errorf("asked for %d: %v, want %d", asked, reply.Stack, want)
		}
		if on && asked == socks.StackOff6 {
			t.Error("several paths that nobody has asked for")
		}
	}
}
