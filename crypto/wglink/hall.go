package wglink

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Ports of the server at its inner addresses.
const (
	dnsPort  = 53
	doorPort = 1080
)

// guestTick is how often it is looked for what is over.
const guestTick = time.Second

// hall is where guests are served while a server runs. They have a TCP/IP stack
// of their own, beside that of the carriers: it takes packets to any address, and
// nothing in it leads to a carrier.
//
// The roster may hold its lock while it waits for packets that are on their way
// through the hall. So nothing on that way takes the roster's lock.
type hall struct {
	ctx   context.Context // Serve's
	host  Host
	inner []netip.Prefix
	cable *cable
	stack *stack.Stack
	calls *tcp.Forwarder
	drops *drops
	log   *slog.Logger

	carriers netip.Prefix
	ids      atomic.Uint32 // of the packets that are made here

	busy sync.WaitGroup // goroutines

	mu       sync.RWMutex // guards what follows
	over     bool         // no goroutine may begin any more
	visitors map[netip.Addr]*visitor
	waiting  map[stack.TransportEndpointID]*Call // that are not connections yet
}

// newHall makes a hall at an engine's cable. end ends it, and its stack is
// destroyed after the engine is closed.
func newHall(ctx context.Context, e *engine, cfg *ServerConfig, d *drops) (*hall, error) {
	for _, p := range cfg.Inner {
		if !p.IsValid() || !usable(p.Addr()) || p.Addr().IsLinkLocalUnicast() || p.Overlaps(tags) {
			return nil, fmt.Errorf("%v cannot be the server's inner address", p)
		}
	}
	h := &hall{
		ctx:      ctx,
		host:     cfg.Host,
		inner:    slices.Clone(cfg.Inner),
		cable:    e.cable,
		drops:    d,
		log:      cfg.Log,
		carriers: carrierNet(cfg.Key.Public()),
		visitors: map[netip.Addr]*visitor{},
		waiting:  map[stack.TransportEndpointID]*Call{},
	}
	if err := h.openStack(); err != nil {
		return nil, err
	}
	return h, nil
}

// run looks for what is over until ctx ends.
func (h *hall) run(ctx context.Context) {
	tick := time.NewTicker(guestTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, v := range h.all() {
				v.sweepPorts(now)
				v.sweepConns(now)
			}
		}
	}
}

// end waits until all that guests have open is over. ctx has ended before.
func (h *hall) end() {
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
	cut := time.AfterFunc(stopTimeout, func() {
		for _, v := range h.all() {
			v.end()
		}
	})
	h.busy.Wait()
	cut.Stop()
	for _, v := range h.all() {
		v.end()
	}
}

// begin tells whether a goroutine may begin. It must end with busy.Done.
func (h *hall) begin() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.over {
		return false
	}
	h.busy.Add(1)
	return true
}

// welcome makes room for a guest.
func (h *hall) welcome(p *peer) {
	v := newVisitor(h, p)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range p.addresses {
		h.visitors[a] = v
	}
}

// evict forgets a guest, and gives what the caller has to end.
func (h *hall) evict(p *peer) *visitor {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.visitors[p.addresses[0]]
	for _, a := range p.addresses {
		delete(h.visitors, a)
	}
	return v
}

// visitor gives the guest that has an inner address; nil if there is none.
func (h *hall) visitor(a netip.Addr) *visitor {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.visitors[a]
}

// all gives all guests.
func (h *hall) all() []*visitor {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]*visitor, 0, len(h.visitors))
	for a, v := range h.visitors {
		if v.peer.addresses[0] == a {
			all = append(all, v)
		}
	}
	return all
}

// isOwn tells whether an address is one of the server's own.
func (h *hall) isOwn(a netip.Addr) bool {
	return slices.ContainsFunc(h.inner, func(p netip.Prefix) bool { return p.Addr() == a })
}

// own gives the server's inner address of a's version; invalid if it has none.
func (h *hall) own(a netip.Addr) netip.Addr {
	for _, p := range h.inner {
		if p.Addr().Is4() == a.Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// visitor is a guest, and what it has open.
type visitor struct {
	hall   *hall
	peer   *peer
	ctx    context.Context // ends when the guest goes
	cancel context.CancelFunc
	room   room

	ringing int // calls; guarded by the hall's mu

	mu      sync.Mutex // guards what follows, and may be locked while the hall's is
	gone    bool
	conns   map[*guestConn]struct{}
	closing map[*guestConn]time.Time // that the guest has not acknowledged; since when
	ports   map[netip.AddrPort]*Port
	crowded time.Time // until when no port will have been idle for spareAfter
	asking  int       // echoes and DNS messages
}

func newVisitor(h *hall, p *peer) *visitor {
	v := &visitor{hall: h, peer: p}
	v.ctx, v.cancel = context.WithCancel(h.ctx)
	return v
}

// end ends what a guest has open, and lets nothing begin any more.
func (v *visitor) end() {
	v.cancel()
	v.mu.Lock()
	v.gone = true
	conns, closing, ports := v.conns, v.closing, v.ports
	v.conns, v.closing, v.ports = nil, nil, nil
	v.peer.flows.Add(-int64(len(conns) + len(ports)))
	v.mu.Unlock()
	for c := range conns {
		c.abort()
	}
	for c := range closing {
		c.endpoint.Abort()
		c.release()
	}
	for _, p := range ports {
		p.shut()
	}
}

// flow describes what a guest does.
func (v *visitor) flow(source, target netip.AddrPort) Flow {
	return Flow{Guest: v.peer.key, Remote: v.peer.place(), Source: source, Target: target, peer: v.peer}
}

// ask tells whether something may be asked for a guest, which ends with answered.
// Until then the hall waits for it.
func (v *visitor) ask() bool {
	if !v.hall.begin() {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone || v.asking >= maxAsking {
		v.hall.drops.limit.Add(1)
		v.hall.busy.Done()
		return false
	}
	v.asking++
	v.peer.flows.Add(1)
	return true
}

func (v *visitor) answered() {
	v.mu.Lock()
	v.asking--
	v.mu.Unlock()
	v.peer.flows.Add(-1)
	v.hall.busy.Done()
}
