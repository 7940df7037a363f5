package wglink

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"
)

const (
	// maxOpening is how many connections a peer may have that have not been
	// admitted, and maxCarriers how many that have: eight lanes, each with the
	// carrier before it.
	maxOpening  = 8
	maxCarriers = 16

	// idle is how long after its last handshake a peer without carriers is
	// taken from WireGuard. Its keys are worth nothing after 3 minutes.
	idle = 5 * time.Minute
)

// ErrAddress says that two peers' keys give the same inner address. It happens
// to one of 2^32 servers that have as many peers.
var ErrAddress = errors.New("another peer has the same inner address")

// ErrKey says that a key is to be a device's and a guest's.
var ErrKey = errors.New("the key is both a device's and a guest's")

// peer is a device or a guest that may come.
type peer struct {
	key       [32]byte
	addresses []netip.Addr // inner ones; a device has one
	guest     bool

	from  atomic.Pointer[netip.AddrPort] // where its latest handshake came from; nil before that
	flows atomic.Int64                   // what a guest has open
	gauge *gauge                         // of an active one; set before it has anything open

	// The roster's mu guards what follows.

	shared [32]byte         // what X25519 gives for its key and the server's; zero until needed
	last   tai64n.Timestamp // of its latest handshake
	heard  time.Time        // when that was
	active bool             // WireGuard knows it
	gone   bool             // it has been removed

	opening  int // connections that have not been admitted
	carriers map[*tcpConn]struct{}
}

// roster is the table of peers, and of what they have open. It is safe for
// concurrent use.
type roster struct {
	server [32]byte

	mu        sync.Mutex // guards what follows
	peers     map[[32]byte]*peer
	addresses map[netip.Addr]*peer
	engine    *engine // nil while nobody serves
	hall      *hall   // nil while nobody serves guests
}

func newRoster(server [32]byte) *roster {
	return &roster{server: server, peers: map[[32]byte]*peer{}, addresses: map[netip.Addr]*peer{}}
}

// open lets WireGuard know peers from now on. h may be nil.
func (r *roster) open(e *engine, h *hall) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine, r.hall = e, h
	for _, p := range r.peers {
		r.welcome(p)
	}
}

// welcome lets the hall know a guest. The caller holds mu.
func (r *roster) welcome(p *peer) {
	if p.guest && r.hall != nil {
		r.hall.welcome(p)
	}
}

// close forgets the engine, which takes its peers with it.
func (r *roster) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine, r.hall = nil, nil
	for _, p := range r.peers {
		p.active = false
	}
}

// add lets a device in.
func (r *roster) add(key [32]byte) error {
	return r.enrol(&peer{key: key, addresses: []netip.Addr{deviceAddress(r.server, key)}})
}

// addGuest lets a guest in, whose addresses are checked.
func (r *roster) addGuest(g Guest) error {
	return r.enrol(&peer{key: g.Key, addresses: slices.Clone(g.Addresses), guest: true})
}

func (r *roster) enrol(p *peer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.peers[p.key]; known != nil {
		if known.guest != p.guest {
			return ErrKey
		}
		return nil
	}
	for _, a := range p.addresses {
		if r.addresses[a] != nil || a == serverAddress(r.server) {
			return ErrAddress
		}
	}
	r.peers[p.key] = p
	for _, a := range p.addresses {
		r.addresses[a] = p
	}
	r.welcome(p)
	return nil
}

// remove forgets a peer and ends what it has open.
func (r *roster) remove(key [32]byte) {
	r.mu.Lock()
	p := r.peers[key]
	if p == nil {
		r.mu.Unlock()
		return
	}
	delete(r.peers, key)
	for _, a := range p.addresses {
		delete(r.addresses, a)
	}
	p.gone = true
	r.rest(p)
	conns := p.carriers
	p.carriers = nil
	var v *visitor
	if p.guest && r.hall != nil {
		v = r.hall.evict(p) // before the addresses can be another guest's
	}
	r.mu.Unlock()
	for c := range conns {
		c.abort()
	}
	if v != nil {
		v.end()
	}
}

// retain removes the devices, or the guests, that are not wanted.
func (r *roster) retain(guests bool, wanted func(p *peer) bool) {
	r.mu.Lock()
	var out [][32]byte
	for key, p := range r.peers {
		if p.guest == guests && !wanted(p) {
			out = append(out, key)
		}
	}
	r.mu.Unlock()
	for _, key := range out {
		r.remove(key)
	}
}

// greet takes notice of a peer's handshake, and lets WireGuard know the peer.
// stamp reads the handshake's timestamp, and is given where to keep the shared
// secret.
func (r *roster) greet(key [32]byte, from netip.AddrPort, stamp func(shared *[32]byte) (tai64n.Timestamp, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[key]
	if p == nil || r.engine == nil {
		return errStranger
	}
	at, err := stamp(&p.shared)
	if err != nil {
		return errGarbled
	}
	if !at.After(p.last) {
		return errReplayed
	}
	if !p.active {
		if err := r.engine.setPeer(key, p.addresses, ""); err != nil {
			return fmt.Errorf("add peer: %w", err)
		}
		p.active = true
		r.measure(p)
	}
	p.last, p.heard = at, time.Now()
	if before := p.from.Swap(&from); before == nil || *before != from {
		r.engine.survey.hint()
	}
	return nil
}

// measure has a gauge for a peer that WireGuard knows now. The caller holds mu.
func (r *roster) measure(p *peer) {
	s := r.engine.cable.sizes
	own := serverAddress(r.server)
	last := p.addresses[len(p.addresses)-1] // a guest's of IPv6 is there, if it has one
	if p.guest && r.hall != nil {
		own = r.hall.own(last)
	}
	if last.Is4() {
		own, last = netip.Addr{}, netip.Addr{}
	}
	p.gauge = s.newGauge(own, last, p.place)
	p.gauge.clamp = p.guest
	s.add(p.gauge, p.addresses...)
}

// enter lets a connection in, if there is room for it. It must leave.
func (r *roster) enter(from netip.Addr) (*peer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.addresses[from]
	if p == nil || p.guest || p.opening >= maxOpening {
		return nil, false
	}
	p.opening++
	return p, true
}

func (r *roster) leave(p *peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.opening--
}

// keep holds a connection of a peer until it is let go. It fails if the peer has
// been removed, or has too many.
func (r *roster) keep(p *peer, c *tcpConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.gone || len(p.carriers) >= maxOpening+maxCarriers {
		return false
	}
	if p.carriers == nil {
		p.carriers = map[*tcpConn]struct{}{}
	}
	p.carriers[c] = struct{}{}
	return true
}

func (r *roster) letGo(p *peer, c *tcpConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(p.carriers, c)
}

// lend lets a peer use a tag for its datagrams, which nobody else has until it is taken
// back. It fails if the peer has been removed.
func (r *roster) lend(p *peer, t tag) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !p.active || r.engine == nil {
		return errStranger
	}
	return r.engine.allow(p.key, t.prefix())
}

func (r *roster) takeBack(p *peer, t tag) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.active && r.engine != nil { // else it went with the peer
		_ = r.engine.forbid(p.key, t.prefix()) // what was allowed can be forbidden
	}
}

// place tells where a peer's last handshake came from.
func (p *peer) place() netip.AddrPort {
	if at := p.from.Load(); at != nil {
		return *at
	}
	return netip.AddrPort{}
}

// sweep takes peers from WireGuard that have not been heard of for long.
func (r *roster) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		if p.active && len(p.carriers) == 0 && p.opening == 0 && p.flows.Load() == 0 && now.Sub(p.heard) > idle {
			r.rest(p)
		}
	}
}

// rest takes a peer from WireGuard. The caller holds mu.
func (r *roster) rest(p *peer) {
	if p.active && r.engine != nil {
		r.engine.removePeer(p.key)
		r.engine.cable.sizes.remove(p.gauge, p.addresses...)
	}
	p.active = false
}
