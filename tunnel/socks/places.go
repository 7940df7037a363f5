package socks

import (
	"net/netip"
	"sync"
)

// places are counted for what there may only be so many of at a listener: apps that have
// not been let in yet, and associations. The zero value is ready.
type places struct {
	mu    sync.Mutex
	count int
	hosts map[netip.Addr]int
}

// place is one of them. A nil place is one where nobody counts.
type place struct {
	among *places
	host  netip.Addr
	once  sync.Once
}

// enter gives a place, unless as many are taken as may be: in all, and by one host.
func (s *places) enter(source netip.Addr, most, mostOfHost int) (*place, bool) {
	if source.Is6() { // whoever has one of these has all
		source = netip.PrefixFrom(source.WithZone(""), 64).Masked().Addr()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= most || s.hosts[source] >= mostOfHost {
		return nil, false
	}
	if s.hosts == nil {
		s.hosts = make(map[netip.Addr]int)
	}
	s.count++
	s.hosts[source]++
	return &place{among: s, host: source}, true
}

// leave gives the place back, once.
func (p *place) leave() {
	if p == nil {
		return
	}
	p.once.Do(func() {
		p.among.mu.Lock()
		defer p.among.mu.Unlock()
		p.among.count--
		if p.among.hosts[p.host]--; p.among.hosts[p.host] == 0 {
			delete(p.among.hosts, p.host)
		}
	})
}
