package ipsec

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

func (p Path) protocol() uint8 {
	if p.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// sources are what a view reads.
type sources struct {
	kernel once[*database]
	charon once[charon]
	links  once[bool]
}

// once keeps what was read, or why it could not be.
type once[T any] struct {
	mu    sync.Mutex
	done  bool
	value T
	err   error
}

func (o *once[T]) get(read func() (T, error)) (T, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.done {
		o.value, o.err = read()
		o.done = true
	}
	return o.value, o.err
}

// bare tells whether there is nothing that could protect any path: no policy that could
// be seen, and no interface that does ESP.
func (v *View) bare() bool {
	db, unread := v.kernel.get(readDatabase)
	if unread == nil && len(db.policies) > 0 {
		return false
	}
	some, err := v.links.get(anyLinkDoesESP)
	return err == nil && !some
}

// askCharon reads what charon has.
func (v *View) askCharon(ctx context.Context) (charon, error) {
	return v.charon.get(func() (charon, error) { return v.detector.askCharon(ctx) })
}

func (v *View) look(ctx context.Context, p Path) (sight, error) {
	way, err := findRoute(p)
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) {
		return sight{Protection: Protection{Reason: "there is no route"}}, nil
	}
	if err != nil {
		return sight{}, err
	}
	p.Local = netip.AddrPortFrom(way.source, p.Local.Port())
	db, unread := v.kernel.get(readDatabase)
	var s kernelSight
	if unread == nil {
		if s, err = lookAtPolicies(p, way, db); err != nil || s.governed {
			return v.introduce(ctx, s), err
		}
	}
	switch {
	case way.link.doesESP():
		if unread != nil {
			return sight{governed: true}, unread
		}
		return v.introduce(ctx, lookAtInterface(p, way, db)), nil
	case way.link.ofCharon():
		return v.lookAtCharon(ctx, p, way)
	}
	return s.sight, unread
}

// kernelSight is what the kernel does.
type kernelSight struct {
	sight
	out *state // with which it protects what goes
}

// lookAtPolicies sees what the kernel's policies make of packets whatever the
// interface.
func lookAtPolicies(p Path, way route, db *database) (kernelSight, error) {
	out := packet{src: p.Local, dst: p.Remote, protocol: p.protocol(), mark: p.Mark}
	going, coming := db.rule(outward, out), db.rule(inward, out.back())
	if reason := cmp.Or(going.reason, coming.reason); reason != "" {
		return unprotected(reason, going.decide), nil
	}
	is, err := exempt(way.link, p.Remote.Addr().Is4())
	if err != nil {
		return kernelSight{}, err
	}
	if is {
		return unprotected("IPsec policies do not count on interface "+way.link.name, true), nil
	}
	return describe(Kernel, way, going.states, coming.states), nil
}

// lookAtInterface sees what an interface that does nothing but ESP makes of
// packets that are routed into it. It drops those that it has no association for.
func lookAtInterface(p Path, way route, db *database) kernelSight {
	out := packet{src: p.Local, dst: p.Remote, protocol: p.protocol(), mark: p.Mark, ifID: way.link.ifID}
	in := out.back()
	if way.link.kind == "xfrm" && way.link.ifID == 0 {
		return unprotected("interface "+way.link.name+" has no number that policies could name", true)
	}
	if way.link.kind != "xfrm" {
		out.mark, in.mark, in.anyMark = way.link.outKey, way.link.inKey, false
	}
	going, coming := db.rule(outward, out), db.rule(inward, in)
	if reason := cmp.Or(going.reason, coming.reason); reason != "" {
		return unprotected("on interface "+way.link.name+": "+reason, true)
	}
	return describe(Interface, way, going.states, coming.states)
}

// lookAtCharon sees what charon does with packets that are routed into the
// interface of its user space ESP. It drops those that it has no association for.
func (v *View) lookAtCharon(ctx context.Context, p Path, way route) (sight, error) {
	found, err := v.askCharon(ctx)
	if err != nil {
		return sight{governed: true}, err
	}
	covering := found.find(func(c *child) bool { return c.covers(p) })
	reason := ""
	switch {
	case !found.libipsec:
		reason = "charon does no ESP of its own for interface " + way.link.name
	case len(covering) == 0:
		reason = "charon has no association for it"
	}
	for _, c := range covering {
		if c.transform.weakness != "" {
			reason = "the association does not protect: " + c.transform.weakness
		}
	}
	if reason != "" {
		return sight{Protection: Protection{Reason: reason}, governed: true}, nil
	}
	c := slices.MaxFunc(covering, func(a, b *child) int { return a.since.Compare(b.since) })
	s := sight{governed: true, Protection: Protection{
		Mechanism: Userspace, Mode: c.mode, Out: c.transform.Suite, In: c.transform.Suite, NATT: c.natt, Since: c.since, MTU: way.mtu, Peer: c.peer,
		hold: hold{device: way.link.index},
	}}
	if slices.ContainsFunc(covering, func(other *child) bool { return other.peer != c.peer }) {
		s.Peer = "" // packets may come from any of them
	}
	// ESP goes by another way than what is in it. If charon's own packets are
	// told apart by a mark, that way cannot be seen from here.
	outer, err := findRoute(Path{Remote: netip.AddrPortFrom(c.gateway, 0)})
	if err == nil && outer.link != way.link {
		w := wrapping{transform: c.transform, mode: modeTunnel, outer: outerHeader(c.gateway.Is4()), natt: c.natt}
		s.MTU = min(s.MTU, w.fits(outer.mtu))
	}
	return s, nil
}

func unprotected(reason string, governed bool) kernelSight {
	return kernelSight{sight: sight{Protection: Protection{Reason: reason}, governed: governed}}
}

// describe tells of the associations that protect what goes and what comes.
func describe(by Mechanism, way route, out, in []*state) kernelSight {
	o, i := newest(out), newest(in)
	p := Protection{
		Mechanism: by, Mode: o.mode.name(), Out: o.cipher.Suite, In: i.cipher.Suite, NATT: o.natt, Since: o.since, MTU: way.mtu,
	}
	if i.since.After(p.Since) {
		p.Since = i.since
	}
	if by == Kernel {
		p.hold = hold{out: o.template(), in: i.template()}
	} else {
		p.hold = hold{device: way.link.index}
	}
	for _, s := range out {
		p.MTU = min(p.MTU, s.fits(way))
	}
	return kernelSight{sight{Protection: p, governed: true}, o}
}

// introduce adds who the peer is, if it was charon that made the association.
func (v *View) introduce(ctx context.Context, s kernelSight) sight {
	if !s.Protected() {
		return s.sight
	}
	found, err := v.askCharon(ctx)
	if err != nil {
		return s.sight // its name is good to have, but protects nothing
	}
	same := found.find(func(c *child) bool { return c.spiOut == s.out.spi && c.gateway == s.out.dst })
	if len(same) == 1 {
		s.Peer = same[0].peer
	}
	return s.sight
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
