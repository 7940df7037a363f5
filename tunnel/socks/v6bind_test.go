package socks

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// marina is a harbour with room for several.
type marina struct {
	*harbour
	granted []StackOption6
}

func (m marina) Bind(ctx context.Context, r Request) (Binding, Reply, error) {
	b, reply, err := m.harbour.Bind(ctx, r)
	reply.Stack = m.granted
	return b, reply, err
}

// bindSix asks for a port, or for a peer at it, within a session.
func bindSix(t testing.TB, door string, id []byte, at Addr, options ...StackOption6) (net.Conn, OperationReply6) {
	t.Helper()
	c := dial(t, door)
	send(t, c, encode6(t, Request6{Command: Bind, Dst: at, Options: Options6{SessionID: id, Stack: options}}))
	if p, err := ReadAuthReply6(c); err != nil || !p.OK {
		t.Fatalf("%+v, %v", p, err)
	}
	return c, nextReply6(t, c)
}

func nextReply6(t testing.TB, c net.Conn) OperationReply6 {
	t.Helper()
	op, err := ReadOperationReply6(c)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// beginSession6 begins a session at a door that asks nobody.
func beginSession6(t testing.TB, door string) []byte {
	t.Helper()
	p, _ := ask6(t, door, Request6{Command: Noop, Options: Options6{SessionRequest: true}})
	return p.Options.SessionID
}

var backlogOf4 = StackOption6{TargetLeg6, StackBacklog6, 4}

func TestSocks6PortsTakeSeveralPeers(t *testing.T) {
	h := newHarbour()
	granted := []StackOption6{{TargetLeg6, StackBacklog6, 3}}
	door := openDoor(t, &Door{Relay: marina{h, granted}})
	id := beginSession6(t, door)
	holder, first := bindSix(t, door, id, Addr{Port: 21}, backlogOf4)
	if !slices.Equal(first.Options.Stack, granted) {
		t.Errorf("granted: %v, want %v", first.Options.Stack, granted)
	}
	if r := receive(t, h.asked); r.Backlog() != 4 || r.Dst.String() != "0.0.0.0:21" {
		t.Errorf("the relay is asked for %+v", r)
	}
	for range 3 {
		c, again := bindSix(t, door, id, first.Bound)
		if again.Code != Succeeded || again.Bound != first.Bound {
			t.Errorf("%+v", again)
		}
		peer := h.comes(t)
		if second := nextReply6(t, c); second.Bound != addr6(t, "192.0.2.10:20") {
			t.Errorf("the peer is %+v", second)
		}
		send(t, peer, "hello")
		expect(t, c, "hello")
		send(t, c, "hi")
		expect(t, peer, "hi")
	}
	// Other sessions have no such port, and are given one of their own.
	bindSix(t, door, beginSession6(t, door), first.Bound)
	if r := receive(t, h.asked); r.Backlog() != 0 {
		t.Errorf("the relay is asked for %+v", r)
	}
	holder.Close()
	receive(t, h.closed)
}

func TestSocks6PortsForOnePeerAreToldSo(t *testing.T) {
	refusal := []StackOption6{{TargetLeg6, StackBacklog6, 0}}
	for _, granted := range [][]StackOption6{nil, refusal} {
		h := newHarbour()
		door := openDoor(t, &Door{Relay: marina{h, granted}})
		c, first := bindSix(t, door, beginSession6(t, door), Addr{}, backlogOf4)
		if !slices.Equal(first.Options.Stack, refusal) {
			t.Errorf("granted: %v, want %v", first.Options.Stack, refusal)
		}
		peer := h.comes(t)
		nextReply6(t, c)
		send(t, peer, "hello")
		expect(t, c, "hello")
	}
}

func TestSocks6PortsAreTheSessionsThatOpenedThem(t *testing.T) {
	var s sessions6
	g := &guest{user: "fred"}
	one, two := s.begin(g), s.begin(g)
	at := netip.MustParseAddrPort("203.0.113.1:40000")
	if !s.lend(one, at, newHarbour()) || s.lend([]byte("nobody's"), at, newHarbour()) {
		t.Error("a port is lent to sessions that there are, and to no other")
	}
	if s.port(one, at) == nil || s.port(two, at) != nil || s.port(one, netip.AddrPort{}) != nil {
		t.Error("a port is found by its own session only, at its address")
	}
	s.takeBack(one, at)
	s.takeBack(two, at)
	s.end(one, g)
	s.takeBack(one, at)
	if s.port(one, at) != nil {
		t.Error("a port is found that was taken back")
	}
}
