package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// DefaultBindLifetime is how long a port waits for a peer if [Binds] does not say:
// a little longer than the two minutes that SOCKS 4 gives it.
const DefaultBindLifetime = 3 * time.Minute

const (
	// maxStrangers is how many connections from hosts that are not allowed a port
	// closes before it is closed itself.
	maxStrangers = 64

	// maxBacklog is how many connections may wait at one port to be accepted.
	maxBacklog = 128
)

// Binds says at which ports an [Exit] lets peers come in, which is what BIND is for.
type Binds struct {
	// Ports are those that may be opened. Without any it is the system that chooses,
	// and an app may wish for any port above 1023.
	Ports Ports

	// Advertise are the addresses that peers reach this host by, one for each
	// family. Without one it is the host's own: that from which it would connect to the peer.
	Advertise []netip.Addr

	// Lifetime is how long a port waits for a peer. If it takes several, it waits as
	// long for the next one. 0 means DefaultBindLifetime.
	Lifetime time.Duration
}

var (
	errNobodyCame = &socks.Error{Code: socks.TimedOut, Err: errors.New("no peer has come in time")}
	errStrangers  = &socks.Error{Code: socks.NotAllowed, Err: errors.New("too many have come who are not allowed")}
	errPeerHere   = fmt.Errorf("the peer has come: %w", net.ErrClosed)
	errPortClosed = fmt.Errorf("the port is closed: %w", net.ErrClosed)
	errFaceless   = &socks.Error{Code: socks.NetworkUnreachable, Err: errors.New("this host has no address that a peer could reach")}
)

// Bind opens a port for one connection from r.Dst, or for several if the request has
// a backlog. Others who come are reset, up to a number.
func (e *Exit) Bind(ctx context.Context, r socks.Request) (socks.Binding, socks.Reply, error) {
	b, reply, err := e.bind(ctx, r)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, fmt.Errorf("open a port: %w", err)
	}
	return b, reply, nil
}

func (e *Exit) bind(ctx context.Context, r socks.Request) (*binding, socks.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout())
	defer cancel()
	peers, err := e.peers(ctx, r)
	if err != nil {
		return nil, socks.Reply{}, err
	}
	f := familiesOf(peers, r.Dst)
	at, err := e.face(f, peers)
	if err != nil {
		return nil, socks.Reply{}, err
	}
	var wanted uint16
	if len(peers) == 0 {
		wanted = r.Dst.Port
	}
	ln, err := e.listen(ctx, f.network(), wanted)
	if err != nil {
		return nil, socks.Reply{}, err
	}
	b := newBinding(e, r, ln, peers)
	reply := socks.Reply{Bound: netip.AddrPortFrom(at, portOf(ln))}
	if n := min(r.Backlog(), maxBacklog); n > 0 {
		b.many = true
		setBacklog(ln, n)
		reply.Stack = []socks.StackOption6{{Leg: socks.TargetLeg6, Kind: socks.StackBacklog6, Value: uint16(n)}}
	}
	return b, reply, nil
}

// peers gives the addresses that may connect; without any, all may that are
// permitted.
func (e *Exit) peers(ctx context.Context, r socks.Request) ([]netip.Addr, error) {
	dst := r.Dst
	if dst.Name == "" && (!dst.IP.IsValid() || dst.IP.Unmap().IsUnspecified()) {
		return nil, nil
	}
	addrs, err := resolve(ctx, e.resolver(), dst)
	if err != nil {
		return nil, err
	}
	var peers []netip.Addr
	var denied error
	for _, a := range addrs {
		a = a.Unmap()
		if err := e.permitsPeer(r, a); err != nil {
			denied = err
		} else if !slices.Contains(peers, a) {
			peers = append(peers, a)
		}
	}
	if len(peers) == 0 {
		return nil, denied
	}
	return peers, nil
}

// permitsPeer tells why nobody may connect from an address; nil if it is allowed. What
// may be no target may be no peer.
func (e *Exit) permitsPeer(r socks.Request, a netip.Addr) error {
	return e.permits(r, netip.AddrPortFrom(a, 0))
}

// binding is a port that waits for peers.
type binding struct {
	exit     *Exit
	request  socks.Request
	ln       *net.TCPListener
	peers    []netip.Addr // who may connect; none: whoever is allowed
	many     bool         // not only the first one
	lifetime time.Duration

	turn      chan struct{} // holds an item while an Accept is at work
	strangers int           // that have come; belongs to whose turn it is

	mu    sync.Mutex
	timer *time.Timer
	over  error // why the port is closed
}

func newBinding(e *Exit, r socks.Request, ln *net.TCPListener, peers []netip.Addr) *binding {
	b := &binding{exit: e, request: r, ln: ln, peers: peers, lifetime: e.Binds.Lifetime, turn: make(chan struct{}, 1)}
	if b.lifetime == 0 {
		b.lifetime = DefaultBindLifetime
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = time.AfterFunc(b.lifetime, func() { b.end(errNobodyCame) })
	return b
}

// Close closes the port.
func (b *binding) Close() error {
	b.end(errPortClosed)
	return nil
}

// end closes the port for a reason; the first one counts.
func (b *binding) end(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over == nil {
		b.over = reason
		b.timer.Stop()
		b.ln.Close()
	}
}

// Accept waits for a peer. Those who wait take turns.
func (b *binding) Accept(ctx context.Context) (relay.Conn, socks.Reply, error) {
	conn, peer, err := b.accept(ctx)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, fmt.Errorf("wait for a peer: %w", err)
	}
	return relay.TCP(conn), socks.Reply{Bound: peer}, nil
}

func (b *binding) accept(ctx context.Context) (*net.TCPConn, netip.AddrPort, error) {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return nil, netip.AddrPort{}, context.Cause(ctx)
	}
	defer b.interrupt(ctx)()
	for {
		conn, err := b.ln.AcceptTCP()
		if err != nil {
			return nil, netip.AddrPort{}, b.reason(ctx, err)
		}
		peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
		if b.welcomes(peer.Addr()) {
			b.taken()
			return conn, peer, nil
		}
		_ = conn.SetLinger(0) // the stranger sees a reset
		conn.Close()
		if b.strangers++; b.strangers == maxStrangers {
			b.end(errStrangers)
		}
	}
}

// interrupt wakes whose turn it is when ctx ends, until the function that it gives
// is called.
func (b *binding) interrupt(ctx context.Context) (stop func()) {
	woken := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(woken)
		b.ln.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !cancel() {
			<-woken
			b.ln.SetDeadline(time.Time{})
		}
	}
}

// reason says why there is no peer.
func (b *binding) reason(ctx context.Context, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over != nil:
		return b.over
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// welcomes tells whether somebody may connect from an address.
func (b *binding) welcomes(a netip.Addr) bool {
	if len(b.peers) > 0 && !slices.Contains(b.peers, a) {
		return false
	}
	return b.exit.permitsPeer(b.request, a) == nil
}

// taken notes that a peer has come.
func (b *binding) taken() {
	if !b.many {
		b.end(errPeerHere)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over == nil {
		b.timer.Reset(b.lifetime)
	}
}
