package ipsec

import (
	"cmp"
	"context"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

func (p Path) protocol() uint8 {
	if p.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func (d *Detector) look(_ context.Context, p Path) (sight, error) {
	way, err := findRoute(p)
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) {
		return sight{Protection: Protection{Reason: "there is no route"}}, nil
	}
	if err != nil {
		return sight{}, err
	}
	p.Local = netip.AddrPortFrom(way.source, p.Local.Port())
	db, err := readDatabase()
	if err != nil {
		return sight{}, err
	}
	return lookAtPolicies(p, way, db)
}

// lookAtPolicies sees what the kernel's policies make of packets whatever the
// interface.
func lookAtPolicies(p Path, way route, db *database) (sight, error) {
	out := packet{src: p.Local, dst: p.Remote, protocol: p.protocol(), mark: p.Mark}
	going, coming := db.rule(outward, out), db.rule(inward, out.back())
	if reason := cmp.Or(going.reason, coming.reason); reason != "" {
		return sight{Protection: Protection{Reason: reason}, governed: going.decide}, nil
	}
	is, err := exempt(way.link, p.Remote.Addr().Is4())
	if err != nil {
		return sight{}, err
	}
	if is {
		return sight{Protection: Protection{Reason: "IPsec policies do not count on interface " + way.link.name}, governed: true}, nil
	}
	return sight{Protection: describe(Kernel, way, going.states, coming.states), governed: true}, nil
}

// describe tells of the associations that protect what goes and what comes.
func describe(by Mechanism, way route, out, in []*state) Protection {
	o, i := newest(out), newest(in)
	p := Protection{
		Mechanism: by, Mode: o.mode.name(), Out: o.cipher.Suite, In: i.cipher.Suite, NATT: o.natt, Since: o.since, MTU: way.mtu,
	}
	if i.since.After(p.Since) {
		p.Since = i.since
	}
	for _, s := range out {
		p.MTU = min(p.MTU, s.fits(way))
	}
	return p
}

// fits gives the size of the largest packet that the association takes; 0 if
// that is not known.
func (s *state) fits(way route) int {
	mtu := way.mtu
	if s.mode != modeTransport {
		outer, err := findRoute(Path{Remote: netip.AddrPortFrom(s.dst, 0)})
		if err != nil {
			return 0
		}
		mtu = outer.mtu
	}
	w := wrapping{transform: s.cipher, mode: s.mode, outer: outerHeader(s.dst.Is4()), natt: s.natt, other: s.otherWrap}
	return w.fits(mtu)
}
