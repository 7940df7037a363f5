package server

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/adit-net/adit/tunnel/socks"
)

// questions permits addresses of a name, and keeps what it has been asked.
type questions struct {
	permitted netip.Addr

	mu    sync.Mutex
	asked []destination
}

var errNotPermitted = &socks.Error{Code: socks.NotAllowed, Err: errors.New("not permitted")}

func (q *questions) permit(name string, at netip.AddrPort) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = append(q.asked, destination{name, at})
	if name != "peer.example" && name != "" || at.Addr().IsValid() && at.Addr() != q.permitted {
		return errNotPermitted
	}
	return nil
}

func (q *questions) has(d destination) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Contains(q.asked, d)
}

func TestConnectReachesOnlyWhatTheRequestPermits(t *testing.T) {
	port, _ := echo(t, "127.0.0.1:0")
	resolver := &answers{addrs: addrs("127.0.0.2", "127.0.0.1", "127.0.0.3")}
	q := &questions{permitted: netip.MustParseAddr("127.0.0.1")}
	r := connectTo(t, "peer.example", port)
	r.Permit = q.permit
	e := &Exit{Allow: toLoopback, Resolver: resolver}
	conn, _, err := e.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, conn)
	if !q.has(destination{"peer.example", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port)}) {
		t.Error("it was not asked for an address")
	}
	q.permitted = netip.MustParseAddr("127.0.0.9")
	if _, _, err := e.Connect(t.Context(), r); socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("error is %v", err)
	}
	if resolver.asked != 2 {
		t.Errorf("%d look-ups for two requests", resolver.asked)
	}
}

func TestDialAsksForTheVeryAddressAgain(t *testing.T) {
	port, from := echo(t, "127.0.0.1:0")
	q := &questions{}
	e := &Exit{Allow: toLoopback}
	_, err := e.dial(t.Context(), socks.Request{Permit: q.permit}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), wishes{})
	if socks.CodeOf(err) != socks.NotAllowed || len(from) > 0 {
		t.Errorf("error is %v", err)
	}
}

func TestOnlyPeersThatTheRequestPermitsComeIn(t *testing.T) {
	q := &questions{permitted: netip.MustParseAddr("127.0.0.1")}
	r := bindFor(t, "0.0.0.0", 0)
	r.Permit = q.permit
	e := loopbackExit()
	e.Binds.Advertise = addrs("127.0.0.1")
	b, reply := open(t, e, r)
	ended := accepting(t.Context(), b)
	stranger(t, "127.0.0.2", reply.Bound)
	c := peer(t, "127.0.0.1", reply.Bound)
	receive(t, ended, "a peer").is(t, c)
}

func TestDatagramsGoOnlyWhereTheRequestPermits(t *testing.T) {
	at := udpEcho(t, "127.0.0.1:0")
	other, elsewhere := listenPeer(t, "127.0.0.2:0")
	resolver := &answers{addrs: addrs("127.0.0.2", "127.0.0.1")}
	q := &questions{permitted: at.IP}
	in := newMailbox()
	e := &Exit{Allow: toLoopback, Resolver: resolver}
	a, reply, err := e.Associate(t.Context(), socks.Request{Command: socks.Associate, Permit: q.permit}, in)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.Send(to(elsewhere, "forbidden"))
	a.Send(to(socks.Addr{Name: "other.example", Port: at.Port}, "forbidden"))
	if _, err := other.WriteToUDPAddrPort([]byte("forbidden"), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), reply.Bound.Port())); err != nil {
		t.Fatal(err)
	}
	a.Send(to(socks.Addr{Name: "Peer.Example", Port: at.Port}, "permitted"))
	if d := in.next(t); string(d.Payload) != "permitted" || d.Addr != at {
		t.Errorf("%q came from %s", d.Payload, d.Addr)
	}
	// What comes back is of the name that was sent to.
	if !q.has(destination{"peer.example", netip.AddrPortFrom(at.IP, at.Port)}) {
		t.Error("it was not asked for the name with its address")
	}
	waitFor(t, func() bool { return e.Drops().Denied == 3 })
	if resolver.asked != 1 {
		t.Errorf("%d look-ups, and one name was permitted", resolver.asked)
	}
}
