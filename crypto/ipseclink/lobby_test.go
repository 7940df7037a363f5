package ipseclink

import (
	"net"
	"net/netip"
	"testing"
)

// visit is a connection from some address.
type visit struct {
	net.Conn
	from   netip.Addr
	closed bool
}

func (v *visit) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(v.from, 40000))
}

func (v *visit) Close() error { v.closed = true; return nil }

func visits(l *lobby, n int, from func(i int) netip.Addr) (all []*visit, leave []func()) {
	for i := range n {
		v := &visit{from: from(i)}
		all, leave = append(all, v), append(leave, l.enter(v))
	}
	return all, leave
}

func shut(all []*visit) (n int) {
	for _, v := range all {
		if v.closed {
			n++
		}
	}
	return n
}

// A host that sends strangers shows out its own.
func TestHostHasItsShareOfTheLobby(t *testing.T) {
	l := newLobby()
	guest, _ := visits(l, 1, func(int) netip.Addr { return netip.MustParseAddr("192.0.2.7") })
	crowd, leave := visits(l, 3*maxOfHost, func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: byte(i)}) // addresses of one network
	})
	if guest[0].closed || shut(crowd) != 2*maxOfHost || !crowd[0].closed || crowd[len(crowd)-1].closed {
		t.Errorf("%d of the crowd are shown out; the guest: %v", shut(crowd), guest[0].closed)
	}
	for _, f := range leave {
		f()
		f()
	}
	if len(l.hosts) != 1 || l.waiting.Len() != 1 {
		t.Errorf("%d hosts have %d strangers", len(l.hosts), l.waiting.Len())
	}
}

func TestOldestStrangerMakesRoom(t *testing.T) {
	l := newLobby()
	all, leave := visits(l, maxStrangers, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i), 0, 1}) })
	leave[0]() // has been admitted
	more, _ := visits(l, 2, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i), 1, 1}) })
	if all[0].closed || !all[1].closed || shut(all) != 1 || shut(more) != 0 {
		t.Errorf("%d are shown out", shut(all))
	}
}
