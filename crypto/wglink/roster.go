package wglink

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
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

// peer is a device that may come.
type peer struct {
	key     [32]byte
	address netip.Addr

	shared [32]byte         // what X25519 gives for its key and the server's; zero until needed
	last   tai64n.Timestamp // of its latest handshake
	heard  time.Time        // when that was
	from   netip.AddrPort   // and where from
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
}

func newRoster(server [32]byte) *roster {
	return &roster{server: server, peers: map[[32]byte]*peer{}, addresses: map[netip.Addr]*peer{}}
}

// open lets WireGuard know peers from now on.
func (r *roster) open(e *engine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine = e
}

// close forgets the engine, which takes its peers with it.
func (r *roster) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine = nil
	for _, p := range r.peers {
		p.active = false
	}
}

func (r *roster) add(key [32]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers[key] != nil {
		return nil
	}
	address := deviceAddress(r.server, key)
	if r.addresses[address] != nil || address == serverAddress(r.server) {
		return ErrAddress
	}
	p := &peer{key: key, address: address}
	r.peers[key], r.addresses[address] = p, p
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
	delete(r.addresses, p.address)
	p.gone = true
	r.rest(p)
	conns := p.carriers
	p.carriers = nil
	r.mu.Unlock()
	for c := range conns {
		c.abort()
	}
}

// keys gives the keys of all peers.
func (r *roster) keys() [][32]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make([][32]byte, 0, len(r.peers))
	for key := range r.peers {
		keys = append(keys, key)
	}
	return keys
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
		if err := r.engine.setPeer(key, p.address, ""); err != nil {
			return fmt.Errorf("add peer: %w", err)
		}
		p.active = true
	}
	p.last, p.heard, p.from = at, time.Now(), from
	return nil
}

// enter lets a connection in, if there is room for it. It must leave.
func (r *roster) enter(from netip.Addr) (*peer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.addresses[from]
	if p == nil || p.opening >= maxOpening {
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

// place tells where a peer's last handshake came from.
func (r *roster) place(p *peer) netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return p.from
}

// sweep takes peers from WireGuard that have not been heard of for long.
func (r *roster) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		if p.active && len(p.carriers) == 0 && p.opening == 0 && now.Sub(p.heard) > idle {
			r.rest(p)
		}
	}
}

// rest takes a peer from WireGuard. The caller holds mu.
func (r *roster) rest(p *peer) {
	if p.active && r.engine != nil {
		r.engine.removePeer(p.key)
	}
	p.active = false
}
