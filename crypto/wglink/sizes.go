package wglink

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	// What WireGuard puts around a packet, with the headers of UDP and IP.
	wrapped4 = header.IPv4MinimumSize + header.UDPMinimumSize + keepaliveSize
	wrapped6 = header.IPv6MinimumSize + header.UDPMinimumSize + keepaliveSize

	// padding is what WireGuard fills packets up to a multiple of, unless they are
	// as long as the MTU.
	padding = 16

	// leastInside is the least that packets are cut to, whatever is said of the path: no
	// smaller ones are worth the headers.
	leastInside = 480
)

// inside is the largest packet inside WireGuard that fits through a path to remote.
func inside(path, mtu int, remote netip.Addr) int {
	n := path - wrapped6
	if remote.Is4() {
		n = path - wrapped4
	}
	if n >= mtu {
		return mtu
	}
	return max(n-n%padding, leastInside)
}

// gauge knows how large the packets to one peer may be.
type gauge struct {
	own, peer netip.Addr            // inner, for echoes; IPv6, or invalid
	remote    func() netip.AddrPort // where the peer is; invalid if that is not known
	clamp     bool                  // the peer is to be told in SYN segments

	limit atomic.Int32 // of packets, in bytes
	busy  atomic.Bool  // there was one that the path may be too small for

	mu        sync.Mutex // guards what follows
	at        netip.AddrPort
	known     int // the limit by what the system knows of the path
	found     int // the limit by what has come through; 0: nothing was lost
	looked    time.Time
	due       time.Time // when it is to be found out what comes through
	raise     time.Time // and when, whether more does
	searching bool
}

// use says how large packets may be, and notes that there is one of a size, if so.
func (g *gauge) use(size int) (limit int) {
	if size > baseSize && !g.busy.Load() {
		g.busy.Store(true)
	}
	return int(g.limit.Load())
}

// settle makes what is known and found the limit. The caller holds mu.
func (g *gauge) settle() {
	n := g.known
	if g.found > 0 {
		n = min(n, g.found)
	}
	g.limit.Store(int32(n))
}

// sizes knows how large packets may be, by whom they are for.
type sizes struct {
	mtu int // none may be larger, whatever the path

	mu     sync.RWMutex // guards what follows
	to     map[netip.Addr]*gauge
	gauges map[*gauge]struct{}
	all    *gauge // of all packets; nil: to says
}

func newSizes(mtu int) *sizes {
	return &sizes{mtu: mtu, to: map[netip.Addr]*gauge{}, gauges: map[*gauge]struct{}{}}
}

// newGauge makes one that knows nothing yet.
func (s *sizes) newGauge(own, peer netip.Addr, remote func() netip.AddrPort) *gauge {
	g := &gauge{own: own, peer: peer, remote: remote, known: s.mtu}
	g.limit.Store(int32(s.mtu))
	return g
}

// add has a gauge count for packets to these addresses, and remove ends that. Without
// any it counts for all packets.
func (s *sizes) add(g *gauge, to ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gauges[g] = struct{}{}
	if len(to) == 0 {
		s.all = g
	}
	for _, a := range to {
		s.to[a] = g
	}
}

func (s *sizes) remove(g *gauge, to ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.gauges, g)
	for _, a := range to {
		delete(s.to, a)
	}
}

// of gives the gauge for packets to an address; nil if there is none.
func (s *sizes) of(to netip.Addr) *gauge {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.all != nil {
		return s.all
	}
	return s.to[to]
}

// each gives all gauges.
func (s *sizes) each() []*gauge {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*gauge, 0, len(s.gauges))
	for g := range s.gauges {
		all = append(all, g)
	}
	return all
}

// fit says how large the packets may be that a packet of size bytes is cut to, which has its
// headers in ip and tcp. If it begins a connection it asks for no larger ones of the peer.
// What has no headers of TCP is not cut.
func (s *sizes) fit(ip []byte, tcp header.TCP, size int) int {
	_, to, ok := addresses(ip)
	g := s.of(to)
	if !ok || g == nil || len(tcp) < header.TCPMinimumSize {
		return s.mtu
	}
	limit := g.use(size)
	if g.clamp && limit < s.mtu {
		clampMSS(tcp, limit-len(ip)-header.TCPMinimumSize)
	}
	return limit
}
