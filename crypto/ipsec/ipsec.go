// Package ipsec tells whether IPsec (RFC 4301) protects the path between two
// addresses, how, and what fits through. It ties sockets to what protects them, and
// changes nothing else.
//
// On Linux it sees, in this order:
//
//   - the kernel's own ESP: the policies of the direction out and of the
//     direction in that would take the path's packets both demand ESP, and
//     there are security associations to do it with;
//   - a route into an interface that does nothing but ESP (xfrm, vti, vti6),
//     with the policies and associations that go with it;
//   - a route into the interface of strongSwan's kernel-libipsec, which does ESP
//     in user space, with an association of which charon tells over vici;
//   - what the administrator states, which nothing is known of.
//
// Elsewhere there is only the statement: macOS and Windows do not let a program
// ask which association a path would take.
//
// It fails closed: what it cannot see or does not understand is not protected.
// A look is about one moment. When an association ends, its route may go with
// it, and packets continue in clear; so whoever rests on protection watches it,
// see [Paths]. That is
// not soon enough for what is in a socket already: whoever demands protection ties
// sockets to it, see [Paths.Guard] and [Detector.Control].
//
// A policy of the kernel refuses what comes in clear, so it holds for both
// directions. A route only says where packets leave. Who wants it for those that
// come, too, sets the interfaces below to drop packets from an address that is
// not routed to them (net.ipv4.conf.*.rp_filter = 1).
//
// A connection that is tied to an interface does not exist for what comes by another one: an
// end that goes on in clear is told so by the kernel's reset, which has no bytes, instead of
// waiting. A packet filter at either end that drops what is in clear makes it wait.
//
// What came in clear before a connection was tied is in its queue, and cannot be told
// from the rest. So [Paths.Guard] takes no connection that was there before the
// association, as far as that is known: to the second.
package ipsec

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Path is where packets go.
type Path struct {
	// Local is this machine's end. Without an address it is the one that the
	// system would use. Port 0 is a port that is not known yet.
	Local netip.AddrPort

	// Remote is the other end. Port 0 is as above.
	Remote netip.AddrPort

	UDP  bool   // otherwise TCP
	Mark uint32 // of the socket, see SO_MARK in socket(7); Linux alone has it
}

// Mechanism is who protects a path.
type Mechanism string

const (
	None      Mechanism = ""          // nobody
	Kernel    Mechanism = "kernel"    // policies of the kernel
	Interface Mechanism = "interface" // an interface that does nothing but ESP
	Userspace Mechanism = "userspace" // strongSwan's kernel-libipsec
	Stated    Mechanism = "stated"    // somebody, as the administrator says
)

// Mode is what ESP wraps, see RFC 4301 section 3.2.
type Mode string

const (
	Transport Mode = "transport"
	Tunnel    Mode = "tunnel"
	BEET      Mode = "beet"
)

// Protection is what protects a path. The zero value is nothing. Of what a
// statement says, there is the Mechanism and no more.
type Protection struct {
	Mechanism Mechanism
	Mode      Mode
	Out, In   Suite     // of the newest association each way
	NATT      bool      // ESP is in UDP, see RFC 3948
	Since     time.Time // when the newest association began; a new key is a new association
	Peer      string    // who the other end proved to be by IKE; empty if that is not known

	// MTU is the size of the largest IP packet, header and all, that goes
	// through in one piece; 0 if that is not known. What routers on the way
	// have not told yet is not in it.
	MTU int

	// Reason says to people why the path is not protected.
	Reason string

	hold hold // what a socket can be tied to
}

// Protected tells whether there is any protection.
func (p Protection) Protected() bool { return p.Mechanism != None }

// Device is the number of the interface that packets must leave by to be protected; 0 where the
// kernel's policies see to that, or nothing does.
func (p Protection) Device() uint32 { return p.hold.by() }

// Detector looks at paths. The zero value can be used; its fields may not change
// after that. Safe for concurrent use.
type Detector struct {
	// Networks are those that the administrator states to be reached through
	// IPsec only. It is the weakest word: it counts where nothing better is
	// found, also when looking fails. It does not count where this machine's own
	// IPsec is to protect the path and does not.
	Networks []netip.Prefix

	// VICI is charon's socket; /run/charon.vici if empty.
	VICI string
}

// View is what policies and associations there are at one moment, so that many
// paths can be looked at for the price of one. It is read when it is first needed,
// and not again; routes are asked for each time. Safe for concurrent use.
type View struct {
	detector *Detector
	sources
}

// View gives an empty one.
func (d *Detector) View() *View { return &View{detector: d} }

// Look says what protects the path now. With an error there is no protection.
func (d *Detector) Look(ctx context.Context, p Path) (Protection, error) {
	return d.View().Look(ctx, p)
}

// Look is as [Detector.Look].
func (v *View) Look(ctx context.Context, p Path) (Protection, error) {
	p, err := p.canonical()
	if err != nil {
		return Protection{}, fmt.Errorf("look at path: %w", err)
	}
	s, err := v.look(ctx, p)
	switch {
	case err == nil && (s.Protected() || s.governed):
		return s.Protection, nil
	case !s.governed && v.detector.states(p.Remote.Addr()):
		return Protection{Mechanism: Stated}, nil
	case err != nil:
		return Protection{}, fmt.Errorf("look at path to %v: %w", p.Remote, err)
	}
	return s.Protection, nil
}

// sight is what a look saw.
type sight struct {
	Protection

	// governed says that this machine's own IPsec decides about the path, so
	// that nobody else's word counts.
	governed bool
}

// states tells whether the administrator states that a is reached through IPsec.
func (d *Detector) states(a netip.Addr) bool {
	for _, n := range d.Networks {
		if n.Contains(a.WithZone("")) {
			return true
		}
	}
	return false
}

// canonical has IPv4 as IPv4, and only what can be a path.
func (p Path) canonical() (Path, error) {
	p.Local = netip.AddrPortFrom(p.Local.Addr().Unmap(), p.Local.Port())
	p.Remote = netip.AddrPortFrom(p.Remote.Addr().Unmap(), p.Remote.Port())
	if p.Local.Addr().IsUnspecified() {
		p.Local = netip.AddrPortFrom(netip.Addr{}, p.Local.Port())
	}
	local, remote := p.Local.Addr(), p.Remote.Addr()
	switch {
	case !remote.IsValid() || remote.IsUnspecified():
		return p, errors.New("it has no remote address")
	case remote.IsMulticast():
		return p, fmt.Errorf("%v is a group of many", remote)
	case local.IsValid() && local.Is4() != remote.Is4():
		return p, fmt.Errorf("%v and %v are not of one family", local, remote)
	}
	return p, nil
}
