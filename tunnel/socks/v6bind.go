package socks

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// bindInSession6 carries out a BIND within a session of SOCKS 6. One with a backlog
// opens a port for several peers, which is there for as long as the app's connection.
// Every further one that names the port accepts a peer.
func (a *app) bindInSession6(ctx context.Context, g *guest, session []byte, r Request, answer answer) error {
	at := unmapped(netip.AddrPortFrom(r.Dst.IP, r.Dst.Port))
	if port := a.door.sessions.port(session, at); port != nil {
		return a.acceptAt6(ctx, port, Reply{Bound: at}, answer)
	}
	if r.Backlog() == 0 {
		return a.carry(ctx, g, &r, answer)
	}
	a.conn.SetDeadline(time.Time{})
	a.door.Log.Debug("app asks for a port", "app", a.source, "dialect", r.Dialect, "backlog", r.Backlog())
	wish := bind6(r)
	wish.Stack = r.Stack
	var port Binding
	var reply Reply
	var err error
	opening, giveUp := context.WithCancel(ctx)
	defer giveUp()
	gone := a.attend(giveUp, func() { port, reply, err = g.bind(opening, wish) })
	if err == nil {
		defer port.Close()
	}
	switch {
	case gone != nil:
		return gone
	case err != nil:
		return a.refuse(&Error{CodeOf(err), err}, answer)
	case reply.Backlog() == 0: // it is a port for one peer
		if _, told := FindStack6(reply.Stack, StackBacklog6); !told {
			reply.Stack = append(reply.Stack, StackOption6{Leg: TargetLeg6, Kind: StackBacklog6})
		}
		return a.acceptAt6(ctx, port, reply, answer)
	case !a.door.sessions.lend(session, unmapped(reply.Bound), port):
		return a.refuse(errSession6, answer)
	}
	defer a.door.sessions.takeBack(session, unmapped(reply.Bound))
	if err := a.tell(answer(reply)); err != nil {
		return err
	}
	return a.hold()
}

// acceptAt6 accepts a peer at a port, after a first reply.
func (a *app) acceptAt6(ctx context.Context, port Binding, first Reply, answer answer) error {
	a.conn.SetDeadline(time.Time{})
	return a.meet(ctx, answer, func(ctx context.Context) (relay.Conn, Reply, error) {
		if err := a.tell(answer(first)); err != nil {
			return nil, Reply{}, fmt.Errorf("%w: %w", errGone, err)
		}
		return port.Accept(ctx)
	})
}
