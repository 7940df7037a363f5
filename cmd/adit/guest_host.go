package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/adit-net/adit/crypto/wglink"
	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/guest"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// guestHost is the [wglink.Host] that has guests' flows pass as their users'.
type guestHost struct {
	exit   *liveExit
	log    *slog.Logger
	guests *guest.Register // set before anybody is served

	closing sync.WaitGroup // of associations
}

// visit gives the visit on behalf of which a guest does something.
func (h *guestHost) visit(ctx context.Context, f wglink.Flow) (*server.Visit, error) {
	v, err := h.guests.Visit(ctx, f.Guest, f.Place)
	if err != nil {
		h.log.Debug("guest is refused", "remote", f.Remote, "error", err)
		return nil, wglink.NotAllowed
	}
	return v, nil
}

// Connect connects to a target, and only then to the guest.
func (h *guestHost) Connect(ctx context.Context, c *wglink.Call) {
	v, err := h.visit(ctx, c.Flow)
	if err != nil {
		c.Refuse(wglink.NotAllowed)
		return
	}
	target, _, err := v.Connect(ctx, requestOf(socks.Connect, c.Flow))
	if err != nil {
		c.Refuse(reasonOf(socks.CodeOf(err), wglink.HostUnreachable))
		return
	}
	conn, err := c.Accept()
	if err != nil {
		relay.Fail(target, err)
		return
	}
	relay.Copy(ctx, conn, target)
}

// Door lets a guest in that speaks SOCKS or HTTP. Datagrams need no SOCKS here.
func (h *guestHost) Door(ctx context.Context, f wglink.Flow, conn wglink.Conn) {
	v, err := h.visit(ctx, f)
	if err != nil {
		_ = conn.Reset() // it has no error
		return
	}
	door := socks.Door{Relay: v, UDP: socks.UDP{Off: true}, Log: h.log}
	door.ServeConn(ctx, conn)
}

// Resolve answers a DNS message.
func (h *guestHost) Resolve(ctx context.Context, q wglink.Query) ([]byte, error) {
	v, err := h.visit(ctx, q.Flow)
	if err != nil {
		return nil, err
	}
	return h.exit.Load().Exchange(ctx, v.MayResolve(requestOf(socks.Noop, q.Flow)), q.Message, q.TCP)
}

// Echo has a target pinged.
func (h *guestHost) Echo(ctx context.Context, f wglink.Flow, payload []byte) error {
	v, err := h.visit(ctx, f)
	if err != nil {
		return err
	}
	target := f.Target.Addr()
	err = v.Ping(requestOf(socks.Noop, f), target, func(r socks.Request) error { return h.exit.Load().Echo(ctx, r, target, payload) })
	if err != nil {
		return reasonOf(socks.CodeOf(err), 0)
	}
	return nil
}

// Associate opens a port for a guest's datagrams.
func (h *guestHost) Associate(ctx context.Context, p *wglink.Port) (wglink.Association, error) {
	v, err := h.visit(ctx, p.Flow)
	if err != nil {
		return nil, err
	}
	a, _, err := v.Associate(ctx, requestOf(socks.Associate, p.Flow), guestInbox{p})
	if err != nil {
		return nil, reasonOf(socks.CodeOf(err), wglink.HostUnreachable)
	}
	return guestAssociation{a, p, h}, nil
}

// guestInbox brings a guest what comes back.
type guestInbox struct{ port *wglink.Port }

func (in guestInbox) Deliver(batch []socks.Datagram) {
	for _, d := range batch {
		in.port.Deliver(d.Payload, netip.AddrPortFrom(d.Addr.IP, d.Addr.Port))
	}
}

func (in guestInbox) Lost(l socks.Loss) {
	loss := wglink.Loss{To: l.To, Reporter: l.Reporter, MTU: l.MTU, Reason: reasonOf(l.Code, 0)}
	if l.MTU > 0 {
		loss.Reason = wglink.TooBig
	}
	in.port.Lose(loss)
}

// guestAssociation sends a guest's datagrams.
type guestAssociation struct {
	socks.Association
	port *wglink.Port
	host *guestHost
}

func (a guestAssociation) Send(payload []byte, to netip.AddrPort) {
	select {
	case <-a.Done():
		a.port.Close() // the guest's next datagram gets another one
	default:
		a.Association.Send([]socks.Datagram{{Addr: socks.Addr{IP: to.Addr(), Port: to.Port()}, Payload: payload}})
	}
}

// Close ends the association, for which the caller cannot wait.
func (a guestAssociation) Close() {
	a.host.closing.Go(func() { _ = a.Association.Close() }) // nothing is left that could be lost
}

func requestOf(c socks.Command, f wglink.Flow) socks.Request {
	r := socks.Request{Command: c, Dialect: socks.WireGuard, Source: f.Source}
	if c == socks.Connect {
		r.Dst = socks.Addr{IP: f.Target.Addr(), Port: f.Target.Port()}
	}
	return r
}

// reasonOf says a code in words that IP has. What is not known is otherwise.
func reasonOf(c socks.Code, otherwise wglink.Reason) wglink.Reason {
	switch c {
	case socks.ConnectionRefused:
		return wglink.Refused
	case socks.NotAllowed:
		return wglink.NotAllowed
	case socks.NetworkUnreachable, socks.AddressNotSupported:
		return wglink.NetworkUnreachable
	case socks.HostUnreachable, socks.TTLExpired:
		return wglink.HostUnreachable
	}
	return otherwise
}
