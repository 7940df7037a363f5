package socks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

var errSix = errors.New("the exit's port has an IPv6 address, which SOCKS 4 cannot tell")

// bind carries out a BIND of SOCKS 4 or 5: it answers once there is a port at the
// exit, and again when a peer has come, who is relayed to from then on. How long
// there is a port to wait at is for the exit to say.
func (a *app) bind(ctx context.Context, g *guest, r Request, answer answer) error {
	if r.Dialect == SOCKS6 {
		r = bind6(r)
	}
	a.conn.SetDeadline(time.Time{})
	a.door.Log.Debug("app asks for a port", "app", a.source, "dialect", r.Dialect, "peer", r.Dst)
	return a.meet(ctx, answer, func(ctx context.Context) (relay.Conn, Reply, error) { return a.await(ctx, g, r, answer) })
}

// meet waits for a peer, tells the app who has come, and relays between them.
func (a *app) meet(ctx context.Context, answer answer, await func(context.Context) (relay.Conn, Reply, error)) error {
	var peer relay.Conn
	var reply Reply
	var err error
	waiting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	gone := a.attend(giveUp, func() { peer, reply, err = await(waiting) })
	switch {
	case gone != nil && err == nil:
		peer.Reset()
		return gone
	case gone != nil:
		return gone
	case err != nil:
		return a.refuse(&Error{CodeOf(err), err}, answer)
	}
	return a.join(peer, answer(reply))
}

// await gives the first answer, and the peer who comes after that. If there is an
// error, the app has not heard of it.
func (a *app) await(ctx context.Context, g *guest, r Request, answer answer) (relay.Conn, Reply, error) {
	binding, reply, err := g.bind(ctx, r)
	if err != nil {
		return nil, Reply{}, err
	}
	defer binding.Close()
	if four := r.Dialect == SOCKS4 || r.Dialect == SOCKS4a; four && reply.Bound.Addr().Unmap().Is6() {
		return nil, Reply{}, &Error{AddressNotSupported, errSix}
	}
	if err := a.tell(answer(reply)); err != nil {
		return nil, Reply{}, fmt.Errorf("%w: %w", errGone, err)
	}
	return binding.Accept(ctx)
}

// bind6 makes a request of SOCKS 6, which names the address to open, one that names
// who may come: anybody. Of the address only the port can be a wish at an exit that the app does not
// know. One connection is served: a backlog needs a session.
func bind6(r Request) Request {
	anybody := netip.IPv4Unspecified()
	if r.Dst.IP.Is6() && !r.Dst.IP.Is4In6() {
		anybody = netip.IPv6Unspecified()
	}
	r.Dst = Addr{IP: anybody, Port: r.Dst.Port}
	r.Stack = slices.DeleteFunc(slices.Clone(r.Stack), func(o StackOption6) bool { return o.Kind == StackBacklog6 })
	return r
}

func (g *guest) bind(ctx context.Context, r Request) (Binding, Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	r.User, r.Source = g.user, g.source
	return g.relay.Bind(ctx, r)
}
