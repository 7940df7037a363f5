package server

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

// mailbox is an Inbox that keeps a copy of everything.
type mailbox struct {
	mail   chan socks.Datagram
	losses chan socks.Loss
}

func newMailbox() *mailbox {
	return &mailbox{make(chan socks.Datagram, 100_000), make(chan socks.Loss, 1000)}
}

func (m *mailbox) Deliver(batch []socks.Datagram) {
	for _, d := range batch {
		d.Payload = bytes.Clone(d.Payload)
		m.mail <- d
	}
}

func (m *mailbox) Lost(l socks.Loss) { m.losses <- l }

// next gives the next datagram that came.
func (m *mailbox) next(t testing.TB) socks.Datagram {
	t.Helper()
	select {
	case d := <-m.mail:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("no datagram comes")
		panic("unreachable")
	}
}

func (m *mailbox) loss(t testing.TB) socks.Loss {
	t.Helper()
	select {
	case l := <-m.losses:
		return l
	case <-time.After(10 * time.Second):
		t.Fatal("nobody tells of a loss")
		panic("unreachable")
	}
}

// associate opens an association that is closed at the end of the test.
func associate(t testing.TB, e *Exit) (socks.Association, *mailbox, uint16) {
	t.Helper()
	m := newMailbox()
	a, reply, err := e.Associate(t.Context(), socks.Request{Command: socks.Associate}, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if reply.Code != socks.Succeeded || reply.Bound.Port() == 0 {
		t.Fatalf("reply is %+v", reply)
	}
	return a, m, reply.Bound.Port()
}

// listenPeer opens a peer's socket.
func listenPeer(t testing.TB, address string) (*net.UDPConn, socks.Addr) {
	t.Helper()
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	at := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = pc.(*net.UDPConn).SetReadBuffer(4 << 20)
	return pc.(*net.UDPConn), socks.Addr{IP: at.Addr(), Port: at.Port()}
}

// udpEcho is a peer that sends everything back.
func udpEcho(t testing.TB, address string) socks.Addr {
	t.Helper()
	conn, at := listenPeer(t, address)
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(b[:n], from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return at
}

// heard reads what a peer gets next, and whom from.
func heard(t testing.TB, peer *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 64<<10)
	if err := peer.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, from, err := peer.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}

func to(addr socks.Addr, payload string) []socks.Datagram {
	return []socks.Datagram{{Addr: addr, Payload: []byte(payload)}}
}

var toLoopback = Allow{Loopback: true}

// waitFor waits for what there is no event for.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}
