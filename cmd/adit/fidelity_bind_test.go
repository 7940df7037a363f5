package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

var bindLoopback = socks.Request{Command: socks.Bind, Dst: socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: 21}}

// app connects to the door.
func (c *chain) app(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial(c.door.network, c.door.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(fidelityLimit))
	return conn.(*net.TCPConn)
}

// bind5 asks for a port by SOCKS 5.
func (c *chain) bind5(t *testing.T) (app *net.TCPConn, at netip.AddrPort) {
	t.Helper()
	app = c.app(t)
	if _, err := app.Write([]byte{5, 1, 0, 5, 2, 0, 1, 127, 0, 0, 1, 0, 21}); err != nil {
		t.Fatal(err)
	}
	var b [2]byte
	if _, err := io.ReadFull(app, b[:]); err != nil || b != [2]byte{5, 0} {
		t.Fatalf("method %v, %v", b, err)
	}
	code, at := reply5(t, app)
	if code != 0 {
		t.Fatalf("the first reply has code %d", code)
	}
	return app, at
}

// reply5 reads a reply of SOCKS 5 with an IPv4 address.
func reply5(t *testing.T, app io.Reader) (code byte, at netip.AddrPort) {
	t.Helper()
	var b [10]byte
	if _, err := io.ReadFull(app, b[:]); err != nil || b[0] != 5 || b[3] != 1 {
		t.Fatalf("reply %v, %v", b, err)
	}
	return b[1], netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[8:]))
}

// peerAt connects to a port at the exit.
func peerAt(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(fidelityLimit))
	return c.(*net.TCPConn)
}

// talk sends words both ways and ends both directions.
func talk(t *testing.T, a, b relayed) {
	t.Helper()
	for range 2 {
		word := fmt.Sprintf("from %s", a.LocalAddr())
		if _, err := io.WriteString(a, word); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(b); string(got) != word || err != nil {
			t.Errorf("read %q, %v; want %q", got, err, word)
		}
		a, b = b, a
	}
}

type relayed interface {
	net.Conn
	CloseWrite() error
}

func isPeer(t *testing.T, at netip.AddrPort, c net.Conn) {
	t.Helper()
	if at.String() != c.LocalAddr().String() {
		t.Errorf("the second reply has %s, the peer is %s", at, c.LocalAddr())
	}
}

// closes waits until nobody listens at a port any more, for a second at most.
func closes(t *testing.T, at netip.AddrPort) {
	t.Helper()
	for end := time.Now().Add(time.Second); ; time.Sleep(5 * time.Millisecond) {
		// Without a connection, which the port could take for its peer.
		ln, err := net.Listen("tcp", at.String())
		if err == nil {
			ln.Close()
			return
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			t.Fatalf("the port is open: %v", err)
		}
	}
}

func TestPeerComesToTheExitAndMeetsTheApp(t *testing.T) {
	c := startChain(t)
	app, at := c.bind5(t)
	peer := peerAt(t, at)
	code, from := reply5(t, app)
	if code != 0 {
		t.Fatalf("the second reply has code %d", code)
	}
	isPeer(t, from, peer)
	talk(t, peer, app)
	closes(t, at)
}

func TestPortWaitsWhileTheCarrierIsCut(t *testing.T) {
	c := startChain(t)
	t.Run("and comes back", func(t *testing.T) {
		app, at := c.bind5(t)
		c.line.cut()
		peer := peerAt(t, at)
		_, from := reply5(t, app)
		isPeer(t, from, peer)
		talk(t, app, peer)
	})
	t.Run("and the peer comes meanwhile", func(t *testing.T) {
		app, at := c.bind5(t)
		c.line.close()
		peer := peerAt(t, at)
		if _, err := io.WriteString(peer, "early"); err != nil {
			t.Fatal(err)
		}
		app.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := app.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("over a line that is cut come %d bytes, %v", n, err)
		}
		app.SetDeadline(time.Now().Add(fidelityLimit))
		c.line.open()
		_, from := reply5(t, app)
		isPeer(t, from, peer)
		if _, err := io.ReadFull(app, make([]byte, len("early"))); err != nil {
			t.Fatal(err)
		}
		talk(t, app, peer)
	})
}

func TestPortClosesWithinASecondWhenTheAppGoes(t *testing.T) {
	c := startChain(t)
	for _, gone := range []func(*net.TCPConn){reset, func(c *net.TCPConn) { c.Close() }} {
		app, at := c.bind5(t)
		gone(app)
		closes(t, at)
	}
}

func TestPeerWhoMayNotComeIsRefusedAtOnce(t *testing.T) {
	c := startChain(t)
	refused := socks.Request{Command: socks.Bind, Dst: socks.Addr{Name: "169.254.169.254", Port: 21}}
	if _, reply, err := c.client.client.Bind(t.Context(), refused); socks.CodeOf(err) != socks.NotAllowed || reply.Code != socks.NotAllowed {
		t.Errorf("bind: %v, %+v", err, reply)
	}
	app := c.app(t)
	if _, err := app.Write([]byte{4, 2, 0, 21, 169, 254, 169, 254, 0}); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(app); err != nil || [8]byte(got) != [8]byte{0, 91} {
		t.Errorf("SOCKS 4: %v, %v", got, err)
	}
}

func TestGoProgramMayWaitForAPeerAgain(t *testing.T) {
	c := startChain(t)
	b, reply, err := c.client.client.Bind(t.Context(), bindLoopback)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, _, err := b.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Accept: %v", err)
		}
		cancel()
	}
	peer := peerAt(t, reply.Bound)
	conn, second, err := b.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	isPeer(t, second.Bound, peer)
	b.Close() // the connection goes on
	talk(t, conn, peer)
	conn.Close()
	if _, _, err := b.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after the peer has come: %v", err)
	}

	b, reply, err = c.client.client.Bind(t.Context(), bindLoopback)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, _, err := b.Accept(t.Context()); ended <- err }()
	b.Close()
	if err := wait(t, ended, "the end of Accept"); err == nil {
		t.Error("Accept succeeds at a port that is closed")
	}
	closes(t, reply.Bound)
}

func TestPortForSeveralPeersTakesOneAfterTheOther(t *testing.T) {
	c := startChain(t)
	r := bindLoopback
	r.Stack = []socks.StackOption6{{Leg: socks.TargetLeg6, Kind: socks.StackBacklog6, Value: 8}}
	port, reply, err := c.client.client.Bind(t.Context(), r)
	if err != nil || reply.Backlog() != 8 {
		t.Fatalf("bind: %+v, %v", reply, err)
	}
	defer port.Close()
	type accepted struct {
		conn  relay.Conn
		reply socks.Reply
		err   error
	}
	accepts := make(chan accepted, 3)
	for range 3 {
		go func() {
			conn, reply, err := port.Accept(t.Context())
			accepts <- accepted{conn, reply, err}
		}()
	}
	for i := range 2 {
		if i == 1 {
			c.line.cut()
		}
		peer := peerAt(t, reply.Bound)
		a := wait(t, accepts, "the peer")
		if a.err != nil {
			t.Fatal(a.err)
		}
		isPeer(t, a.reply.Bound, peer)
		talk(t, a.conn, peer)
		a.conn.Close()
	}
	port.Close()
	if a := wait(t, accepts, "the end of Accept"); !errors.Is(a.err, net.ErrClosed) {
		t.Errorf("Accept at a port that is closed: %v", a.err)
	}
	if _, _, err := port.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept at a port that is closed: %v", err)
	}
	closes(t, reply.Bound)
}
