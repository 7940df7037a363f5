package ipsec

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// packet is what policies look at, as it is on one side of its path.
type packet struct {
	src, dst netip.AddrPort // port 0 is not known
	protocol uint8
	mark     uint32
	anyMark  bool   // which it has is not known
	ifID     uint32 // of the interface of type xfrm that it goes through
}

// back is the packet that answers p. A firewall may mark it or not.
func (p packet) back() packet {
	p.src, p.dst, p.anyMark = p.dst, p.src, true
	return p
}

func (p packet) family() uint16 {
	if p.dst.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// likelihood is whether something is for a packet of which not all is known.
type likelihood int

const (
	no likelihood = iota
	maybe
	yes
)

func (s *selector) covers(p packet) likelihood {
	if s.family == unix.AF_UNSPEC {
		return yes
	}
	if s.family != p.family() || !s.src.Contains(p.src.Addr().WithZone("")) || !s.dst.Contains(p.dst.Addr().WithZone("")) ||
		s.protocol != 0 && s.protocol != p.protocol {
		return no
	}
	match := min(coversPort(s.srcPort, s.srcMask, p.src.Port()), coversPort(s.dstPort, s.dstMask, p.dst.Port()))
	if s.iface != 0 || s.user != 0 {
		match = min(match, maybe) // which a packet has is seen too late
	}
	return match
}

func coversPort(port, mask, have uint16) likelihood {
	switch {
	case mask == 0:
		return yes
	case have == 0:
		return maybe
	case (have^port)&mask == 0:
		return yes
	}
	return no
}

// candidates are the policies of which one is asked about the packet; nil if it
// is not sure that any is. The kernel takes the one with the lowest priority, and
// of several the oldest, which cannot be seen from here.
func (db *database) candidates(dir direction, p packet) []*policy {
	var found []*policy
	var last *policy // the first that is sure to match
	for i := range db.policies {
		c := &db.policies[i]
		if c.dir != dir || c.ifID != p.ifID {
			continue
		}
		match := min(c.covers(p), c.mark.on(p))
		if match == no {
			continue
		}
		found = append(found, c)
		if match == yes && (last == nil || c.priority < last.priority) {
			last = c
		}
	}
	if last == nil {
		return nil
	}
	return slices.DeleteFunc(found, func(c *policy) bool { return c.priority > last.priority })
}

// ruling is what the policies of one direction make of a packet.
type ruling struct {
	states []*state // that protect it
	decide bool     // they let nothing out in clear
	reason string   // why it is not protected
}

// rule asks every policy that may be the one: the packet is protected if all of
// them demand ESP that can be had.
func (db *database) rule(dir direction, p packet) ruling {
	candidates := db.candidates(dir, p)
	if len(candidates) == 0 {
		return ruling{reason: "no IPsec policy covers " + dir.String()}
	}
	var r ruling
	for _, c := range candidates {
		one := db.demand(c, p)
		if one.reason != "" {
			return one
		}
		r.states = append(r.states, one.states...)
	}
	r.decide = true
	return r
}

// demand is what one policy makes of a packet.
func (db *database) demand(c *policy, p packet) ruling {
	if c.block {
		return ruling{decide: true, reason: "an IPsec policy blocks " + c.dir.String()}
	}
	if c.dir == outward {
		p.mark = c.value & c.mask // associations are for the policy's mark, not the packet's
	}
	var states []*state
	demanded := false
	for i := range c.templates {
		t := &c.templates[i]
		if t.protocol != unix.IPPROTO_ESP || t.optional {
			continue
		}
		demanded = true
		found, weakness := db.usable(c.dir, t, p)
		if weakness != "" {
			return ruling{decide: true, reason: fmt.Sprintf("the association for %v does not protect: %s", c.dir, weakness)}
		}
		if len(found) == 0 {
			return ruling{decide: true, reason: fmt.Sprintf("there is no association for %v", c.dir)}
		}
		states = append(states, found...)
	}
	if !demanded {
		return ruling{reason: fmt.Sprintf("the IPsec policy for %v does not demand ESP", c.dir)}
	}
	return ruling{states: states}
}

// usable are the associations with which the kernel may do what a template asks
// for. One that is weak spoils them all, as it may be the one that is taken.
func (db *database) usable(dir direction, t *template, p packet) (found []*state, weakness string) {
	for i := range db.states {
		s := &db.states[i]
		if !s.serves(dir, t, p) {
			continue
		}
		if s.cipher.weakness != "" {
			return nil, s.cipher.weakness
		}
		found = append(found, s)
	}
	return found, ""
}

func (s *state) serves(dir direction, t *template, p packet) bool {
	switch {
	case !s.keyed || s.spi == 0, // the kernel waits for IKE to complete it
		s.protocol != t.protocol || s.mode != t.mode || s.ifID != p.ifID || s.mark.on(p) != yes,
		t.spi != 0 && s.spi != t.spi,
		s.direction == 1 && dir == outward || s.direction == 2 && dir == inward,
		s.selector.covers(p) != yes:
		return false
	}
	// Any number in a policy for what comes; none but the same for what goes.
	if s.reqID != t.reqID && (dir == outward || t.reqID != 0) {
		return false
	}
	if t.mode == modeTransport {
		return s.src == p.src.Addr().WithZone("") && s.dst == p.dst.Addr().WithZone("")
	}
	return (!t.src.IsValid() || s.src == t.src) && (!t.dst.IsValid() && dir == inward || s.dst == t.dst)
}

func (d direction) String() string {
	if d == inward {
		return "incoming packets"
	}
	return "outgoing packets"
}

// newest is the association that began last.
func newest(states []*state) *state {
	return slices.MaxFunc(states, func(a, b *state) int { return a.since.Compare(b.since) })
}

func (m mode) name() Mode {
	switch m {
	case modeTransport:
		return Transport
	case modeTunnel:
		return Tunnel
	case modeBEET:
		return BEET
	}
	return ""
}
