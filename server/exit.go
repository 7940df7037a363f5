package server

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// DefaultConnectTimeout is how long a CONNECT may take if [Exit] does not say.
const DefaultConnectTimeout = 15 * time.Second

// Exit opens the connections to targets, and the ports that datagrams go through.
// Nothing else in adit does. It is a [socks.Relay]; its fields do not change while
// it is in use. The zero Exit reaches public addresses.
type Exit struct {
	Allow Allow

	// Own are listeners that are never targets, whatever Allow says, so that
	// nobody reaches them in the exit's name or sends it round in circles. An
	// unspecified address stands for every address of this host. Where the host
	// has another address on the outside of a NAT, that goes here too.
	Own []netip.AddrPort

	Resolver Resolver      // nil means Upstream, or else net.DefaultResolver
	Timeout  time.Duration // for look-up and connection together; 0 means DefaultConnectTimeout

	Binds Binds // for peers who come in

	// Steer sets up all sockets towards targets, peers and DNS servers. nil: routes say by
	// what way they go.
	Steer Steer

	Filtering       Filtering     // whose datagrams an association takes
	Associations    int           // how many may be open at once; 0 means DefaultAssociations
	AssociationIdle time.Duration // ends one that nothing passes for so long, or a bit longer; 0 means never

	// Upstream are the DNS servers that are asked for names, after this host's own
	// file of names, and by Exchange: MaxUpstream of them at most. Without any those
	// of this host are, or its resolver where only that knows them.
	Upstream []netip.AddrPort

	sharing   sync.Once
	datagrams *datagrams // see [Exit.shared]
	exchanges exchanges
	echoes    shares // under way
}

// keepAlive finds out within two minutes that a target or peer is gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// Connect connects to a target by the first of its addresses that answers. Port 53 of
// the zero address is the exit's own name service.
func (e *Exit) Connect(ctx context.Context, r socks.Request) (relay.Conn, socks.Reply, error) {
	if isNameService(r.Dst) {
		exchange := func(ctx context.Context, query []byte) ([]byte, error) { return e.Exchange(ctx, r, query, true) }
		return newNameConn(ctx, r.Initial, exchange), socks.Reply{}, nil
	}
	if !r.Dst.IP.IsValid() || len(r.Initial) > 0 { // else there is no more than dial, which has a limit
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.timeout())
		defer cancel()
	}
	targets, err := e.targets(ctx, r)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	w := wishesOf(r, len(targets))
	attempt := race
	if len(targets) == 1 || !w.happyEyeballs() {
		attempt = inTurn
	}
	conn, err := attempt(ctx, targets, func(ctx context.Context, target netip.AddrPort) (relay.Conn, error) {
		return e.dial(ctx, r, target, w)
	})
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	if err := w.say(ctx, conn); err != nil {
		conn.Reset()
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	return conn, socks.Reply{Bound: addrPort(conn.LocalAddr()), Stack: w.report(conn)}, nil
}

// timeout is Timeout, or what holds without one.
func (e *Exit) timeout() time.Duration { return cmp.Or(e.Timeout, DefaultConnectTimeout) }

// permits tells why there may be no connection to an address for a request; nil if there
// may.
func (e *Exit) permits(r socks.Request, target netip.AddrPort) error {
	if err := e.judge(target); err != nil {
		return err
	}
	return r.Permits(r.Dst.Name, target)
}

// Judge tells why there may be no connection to an address, whoever wants it; nil if there
// may.
func (e *Exit) Judge(target netip.AddrPort) error { return e.judge(target) }

// judge tells why there may be no connection to an address; nil if there may.
func (e *Exit) judge(target netip.AddrPort) error { return e.judgeBy(target, hostAddrs) }

// judgeBy is judge with a way to list this host's addresses.
func (e *Exit) judgeBy(target netip.AddrPort, local func() ([]netip.Addr, error)) error {
	deny := func(what string) error {
		return &socks.Error{Code: socks.NotAllowed, Err: fmt.Errorf("the target is %s, which is not allowed", what)}
	}
	for _, a := range forms(target.Addr()) {
		if k := kindOf(a); !e.Allow.permits(k) {
			return deny(fmt.Sprintf("a %s address", k))
		}
		own, err := owned(e.Own, netip.AddrPortFrom(a, target.Port()), local)
		if err != nil {
			return &socks.Error{Code: socks.NotAllowed, Err: fmt.Errorf("list this host's addresses: %w", err)}
		}
		if own {
			return deny("this server itself")
		}
	}
	return nil
}

// hostAddrs gives the addresses of this host's interfaces.
func hostAddrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(all))
	for _, one := range all {
		if n, ok := one.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, a.Unmap())
			}
		}
	}
	return addrs, nil
}
