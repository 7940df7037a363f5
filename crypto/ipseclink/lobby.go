package ipseclink

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

const (
	// maxStrangers is how many connections there may be that have not been admitted, and
	// maxOfHost how many of them from one host. A device is no stranger for more than a few
	// round trips; but there may be many behind a gateway.
	maxStrangers = 256
	maxOfHost    = 64
)

// lobby has those who have not been admitted. When there is no room the oldest has to go, of
// a host that has too many, or else of all: it is those who linger that are shown out,
// however many come.
type lobby struct {
	mu      sync.Mutex
	waiting list.List // of *stranger, the oldest first
	hosts   map[netip.Prefix]int
}

type stranger struct {
	net.Conn
	host  netip.Prefix
	place *list.Element // nil: it has left; under the lobby's mu
}

func newLobby() *lobby { return &lobby{hosts: make(map[netip.Prefix]int)} }

// enter takes in a connection, which must leave when it has been admitted or has ended.
func (l *lobby) enter(c net.Conn) (leave func()) {
	s := &stranger{Conn: c, host: hostOf(addrPort(c.RemoteAddr()).Addr())}
	l.mu.Lock()
	out := l.tooMuch(s.host)
	if out != nil {
		l.forget(out)
	}
	s.place = l.waiting.PushBack(s)
	l.hosts[s.host]++
	l.mu.Unlock()
	if out != nil {
		_ = out.Close() // an error means that it went by itself
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.forget(s)
	}
}

// tooMuch gives who has to go before one more of a host may come; nil if there is room. The
// caller holds mu.
func (l *lobby) tooMuch(host netip.Prefix) *stranger {
	crowd := l.hosts[host] >= maxOfHost
	if !crowd && l.waiting.Len() < maxStrangers {
		return nil
	}
	for at := l.waiting.Front(); ; at = at.Next() {
		if s := at.Value.(*stranger); !crowd || s.host == host {
			return s
		}
	}
}

// forget takes one out who may be out already. The caller holds mu.
func (l *lobby) forget(s *stranger) {
	if s.place == nil {
		return
	}
	l.waiting.Remove(s.place)
	s.place = nil
	if l.hosts[s.host]--; l.hosts[s.host] == 0 {
		delete(l.hosts, s.host)
	}
}

// hostOf is whom an address counts for: in IPv6 a host has a network of them.
func hostOf(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // all that have no address are one
	}
	return p
}
