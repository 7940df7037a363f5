package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

var peerExpected = socks.Request{Command: socks.Bind, Dst: socks.Addr{Name: "peer.example", Port: 21}}

// severalExpected asks for a port for several peers.
func severalExpected() socks.Request {
	r := peerExpected
	r.Stack = backlogOf(4)
	return r
}

func backlogOf(n uint16) []socks.StackOption6 {
	return []socks.StackOption6{{Leg: socks.TargetLeg6, Kind: socks.StackBacklog6, Value: n}}
}

var (
	portAtExit = socks.Addr{IP: netip.MustParseAddr("203.0.113.1"), Port: 40000}
	peerAddr   = socks.Addr{IP: netip.MustParseAddr("192.0.2.10"), Port: 20}
)

// harbour is a server that opens ports, and lets peers come to them.
type harbour struct {
	t     *testing.T
	peers chan socks.Code // one for each who comes, or why nobody does
	ended chan struct{}   // gets one for each port that has been closed

	hub *hub
}

func newHarbour(t *testing.T) *harbour {
	a := &harbour{t: t, peers: make(chan socks.Code, 10), ended: make(chan struct{}, 10)}
	a.hub = newHub(t, a.handle)
	a.hub.grace = time.Minute
	return a
}

func (a *harbour) handle(ctx context.Context, s *tunnel.Stream) {
	q, err := socks.ReadRequest6(s)
	switch {
	case err != nil: // the client has given it up
	case q.Command != socks.Bind:
		a.t.Errorf("request %+v", q)
	case len(q.Options.SessionID) > 0:
		a.accept(ctx, s, q)
	case q.Dst != peerExpected.Dst:
		a.t.Errorf("a port is asked for %s", q.Dst)
	case q.Options.SessionRequest:
		write(s, socks.AuthReply6{OK: true, Options: socks.Options6{SessionID: []byte("port")}},
			socks.OperationReply6{Bound: portAtExit, Options: socks.Options6{Stack: q.Options.Stack}})
		<-ctx.Done()
		a.ended <- struct{}{}
	default:
		write(s, socks.AuthReply6{OK: true}, socks.OperationReply6{Bound: portAtExit})
		a.peer(ctx, s)
		if ctx.Err() != nil {
			a.ended <- struct{}{}
		}
	}
}

// accept serves a stream that is for one of several peers.
func (a *harbour) accept(ctx context.Context, s *tunnel.Stream, q socks.Request6) {
	if string(q.Options.SessionID) != "port" || q.Dst != portAtExit {
		a.t.Errorf("request %+v", q)
	}
	write(s, socks.AuthReply6{OK: true, Options: socks.Options6{SessionOK: true}})
	a.peer(ctx, s)
}

// peer waits for a peer, who sends back what it gets.
func (a *harbour) peer(ctx context.Context, s *tunnel.Stream) {
	select {
	case code := <-a.peers:
		write(s, socks.OperationReply6{Code: code, Bound: peerAddr})
		if code == socks.Succeeded {
			_, _ = io.Copy(s, s)
		}
	case <-ctx.Done():
	}
}

func write(s *tunnel.Stream, messages ...interface{ AppendBinary([]byte) ([]byte, error) }) {
	var b []byte
	for _, m := range messages {
		b, _ = m.AppendBinary(b)
	}
	_, _ = s.Write(b)
}

// bind opens a port.
func (c *serving) bind(t *testing.T, r socks.Request) socks.Binding {
	t.Helper()
	b, reply, err := c.Bind(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if want := netip.AddrPortFrom(portAtExit.IP, portAtExit.Port); reply.Bound != want || reply.Backlog() != r.Backlog() {
		t.Errorf("reply %+v", reply)
	}
	return b
}

func TestPeerComesThroughAPortOnceAndAfterACut(t *testing.T) {
	for _, r := range []socks.Request{peerExpected, severalExpected()} {
		a := newHarbour(t)
		c := start(t, a.hub, nil)
		b := c.bind(t, r)
		a.hub.session(t).cut(nil)
		a.peers <- socks.Succeeded
		conn, reply, err := b.Accept(t.Context())
		if err != nil || reply.Bound != netip.AddrPortFrom(peerAddr.IP, peerAddr.Port) {
			t.Fatalf("accept: %+v, %v", reply, err)
		}
		b.Close()
		say(t, conn, "hello")
		conn.Close()
		if _, _, err := b.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept at a port that is closed: %v", err)
		}
	}
}

func TestAcceptSaysWhyNobodyCame(t *testing.T) {
	for _, r := range []socks.Request{peerExpected, severalExpected()} {
		a := newHarbour(t)
		b := start(t, a.hub, nil).bind(t, r)
		a.peers <- socks.TimedOut
		if _, reply, err := b.Accept(t.Context()); socks.CodeOf(err) != socks.TimedOut || reply.Code != socks.TimedOut {
			t.Errorf("accept: %+v, %v", reply, err)
		}
	}
}

func TestAcceptCanBeGivenUpAndCalledAgain(t *testing.T) {
	for _, r := range []socks.Request{peerExpected, severalExpected()} {
		a := newHarbour(t)
		b := start(t, a.hub, nil).bind(t, r)
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 2)
			for range 2 {
				go func() { _, _, err := b.Accept(ctx); ended <- err }()
			}
			cancel()
			for range 2 {
				if err := receive(t, ended, "the end"); !errors.Is(err, context.Canceled) {
					t.Errorf("accept: %v", err)
				}
			}
		}
		// The server may not know yet that an Accept was given up.
		ended := make(chan error, 1)
		go func() {
			conn, _, err := b.Accept(t.Context())
			if err == nil {
				conn.Close()
			}
			ended <- err
		}()
		for done := false; !done; {
			select {
			case a.peers <- socks.Succeeded:
			case err := <-ended:
				if done = true; err != nil {
					t.Errorf("accept: %v", err)
				}
			case <-time.After(patience):
				t.Fatal("no peer comes")
			}
		}
	}
}

// Every Accept would open a port of its own.
func TestPortForSeveralThatCannotBeReferredToIsNone(t *testing.T) {
	ended := make(chan struct{}, 1)
	h := newHub(t, func(ctx context.Context, s *tunnel.Stream) {
		if _, err := socks.ReadRequest6(s); err != nil {
			t.Error(err)
		}
		write(s, socks.AuthReply6{OK: true}, socks.OperationReply6{Bound: portAtExit, Options: socks.Options6{Stack: backlogOf(4)}})
		<-ctx.Done()
		ended <- struct{}{}
	})
	if _, reply, err := start(t, h, nil).Bind(t.Context(), severalExpected()); err == nil || reply.Code != socks.GeneralFailure {
		t.Errorf("Bind gives %v, %v", reply.Code, err)
	}
	receive(t, ended, "the end of the port")
}

func TestCloseClosesThePortAndWakesAccept(t *testing.T) {
	for _, r := range []socks.Request{peerExpected, severalExpected()} {
		a := newHarbour(t)
		b := start(t, a.hub, nil).bind(t, r)
		ended := make(chan error, 1)
		go func() { _, _, err := b.Accept(t.Context()); ended <- err }()
		b.Close()
		receive(t, a.ended, "the end of the port")
		if err := receive(t, ended, "the end"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
	}
}

func TestPortEndsWithItsSession(t *testing.T) {
	for _, r := range []socks.Request{peerExpected, severalExpected()} {
		a := newHarbour(t)
		b := start(t, a.hub, nil).bind(t, r)
		ended := make(chan error, 1)
		go func() { _, _, err := b.Accept(t.Context()); ended <- err }()
		a.hub.session(t).lose()
		if err := receive(t, ended, "the end"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("accept: %v", err)
		}
		if _, _, err := b.Accept(t.Context()); err == nil {
			t.Error("accept succeeds in another session")
		}
	}
}
