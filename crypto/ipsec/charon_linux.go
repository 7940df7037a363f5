package ipsec

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// child is an association of ESP both ways, as charon tells of it.
type child struct {
	local, remote []trafficSelector
	gateway       netip.Addr // the other end of ESP
	peer          string
	mode          Mode
	natt          bool
	since         time.Time
	transform     transform
	spiIn, spiOut uint32
}

// covers tells for sure whether it is for a path's packets.
func (c *child) covers(p Path) bool {
	covers := func(end netip.AddrPort) func(trafficSelector) bool {
		return func(s trafficSelector) bool { return s.covers(end, p.protocol()) }
	}
	return slices.ContainsFunc(c.local, covers(p.Local)) && slices.ContainsFunc(c.remote, covers(p.Remote))
}

// trafficSelector is a range of addresses and ports, see RFC 7296 section 3.13.
type trafficSelector struct {
	first, last         netip.Addr
	protocol            uint8 // 0 is any
	firstPort, lastPort uint16
}

func (s *trafficSelector) covers(end netip.AddrPort, protocol uint8) bool {
	a := end.Addr().WithZone("")
	if a.Is4() != s.first.Is4() || a.Less(s.first) || s.last.Less(a) || s.protocol != 0 && s.protocol != protocol {
		return false
	}
	anyPort := s.firstPort == 0 && s.lastPort == 65535
	return anyPort || end.Port() != 0 && s.firstPort <= end.Port() && end.Port() <= s.lastPort
}

// parseSelectorText reads what strongSwan prints: 10.1.0.0/16, or
// 10.1.0.1..10.1.0.9, with [tcp], [tcp/http], [17/1000-2000] or [0/80] behind it.
func parseSelectorText(text string) (s trafficSelector, ok bool) {
	addresses, upper, limited := strings.Cut(text, "[")
	s.lastPort = 65535
	if limited {
		if upper, ok = strings.CutSuffix(upper, "]"); !ok || !s.parseUpper(upper) {
			return s, false
		}
	}
	if first, last, isRange := strings.Cut(addresses, ".."); isRange {
		var err1, err2 error
		s.first, err1 = netip.ParseAddr(first)
		s.last, err2 = netip.ParseAddr(last)
		return s, err1 == nil && err2 == nil && s.first.BitLen() == s.last.BitLen()
	}
	if !strings.Contains(addresses, "/") {
		a, err := netip.ParseAddr(addresses)
		s.first, s.last = a, a
		return s, err == nil
	}
	n, err := netip.ParsePrefix(addresses)
	if err != nil {
		return s, false
	}
	s.first, s.last = n.Masked().Addr(), lastOf(n)
	return s, true
}

// parseUpper reads the protocol and the ports.
func (s *trafficSelector) parseUpper(text string) bool {
	name, ports, limited := strings.Cut(text, "/")
	switch name {
	case "tcp":
		s.protocol = unix.IPPROTO_TCP
	case "udp":
		s.protocol = unix.IPPROTO_UDP
	default: // another is not told by its name, and not of use here
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return false
		}
		s.protocol = uint8(n)
	}
	if !limited {
		return true
	}
	first, last, isRange := strings.Cut(ports, "-")
	if n, err := strconv.ParseUint(first, 10, 16); err == nil {
		s.firstPort, s.lastPort = uint16(n), uint16(n)
	} else if port, ok := portNumber(name, ports); ok {
		s.firstPort, s.lastPort = port, port
		return true // a service's name may have a hyphen in it
	} else {
		return false
	}
	if isRange {
		n, err := strconv.ParseUint(last, 10, 16)
		s.lastPort = uint16(n)
		return err == nil
	}
	return true
}

// portNumber finds a service by its name, as charon did.
func portNumber(protocol, service string) (uint16, bool) {
	if protocol != "tcp" && protocol != "udp" || service == "" {
		return 0, false
	}
	n, err := net.LookupPort(protocol, service)
	return uint16(n), err == nil
}

// lastOf is the last address of a network.
func lastOf(n netip.Prefix) netip.Addr {
	b := n.Addr().AsSlice()
	for i := n.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// charon is what it tells of itself.
type charon struct {
	libipsec bool // it does ESP in user space
	children []child
}

// mostChildren is how many a charon may have. A listing of more takes longer than
// an answer may.
const mostChildren = 1 << 16

// find gives those children for which is is true.
func (c *charon) find(is func(*child) bool) (found []*child) {
	for i := range c.children {
		if is(&c.children[i]) {
			found = append(found, &c.children[i])
		}
	}
	return found
}

// askCharon asks for all that it has.
func (d *Detector) askCharon(ctx context.Context) (charon, error) {
	v, err := d.dialCharon(ctx)
	if err != nil {
		return charon{}, err
	}
	defer v.close()
	stop := context.AfterFunc(ctx, func() { v.close() })
	defer stop()
	if err := v.conn.SetDeadline(time.Now().Add(viciAnswersWithin)); err != nil {
		return charon{}, fmt.Errorf("ask charon: %w", err)
	}
	stats, err := v.request("stats", nil)
	if err != nil {
		return charon{}, err
	}
	found := charon{libipsec: slices.Contains(stats.lists["plugins"], "kernel-libipsec")}
	if err := v.register("list-sa"); err != nil {
		return charon{}, err
	}
	now := time.Now().Truncate(time.Second)
	_, err = v.request("list-sas", func(event section) {
		for _, ike := range event.parts {
			found.children = append(found.children, children(&ike.section, now)...)
		}
		if len(found.children) > mostChildren {
			v.close() // ends the request
		}
	})
	if err != nil {
		return charon{}, err
	}
	return found, nil
}

func (d *Detector) dialCharon(ctx context.Context) (*vici, error) {
	path := d.VICI
	if path == "" {
		path = defaultVICI
	}
	return dialVICI(ctx, path)
}

// children reads those of an IKE association that ESP is done with now.
func children(ike *section, now time.Time) (all []child) {
	for _, part := range ike.find("child-sas").parts {
		v := part.values
		switch {
		case v["protocol"] != "ESP":
			continue
		case v["state"] != "INSTALLED" && v["state"] != "REKEYING":
			continue
		}
		c := child{
			peer: peerOf(ike), mode: Mode(strings.ToLower(v["mode"])), natt: v["encap"] == "yes",
			transform: charonTransform(v["encr-alg"], v["encr-keysize"], v["integ-alg"]),
		}
		c.gateway, _ = netip.ParseAddr(ike.values["remote-host"])
		if age, err := strconv.ParseInt(v["install-time"], 10, 32); err == nil {
			c.since = now.Add(-time.Duration(age) * time.Second)
		}
		c.spiIn, c.spiOut = parseSPI(v["spi-in"]), parseSPI(v["spi-out"])
		c.local, c.remote = selectors(part.lists["local-ts"]), selectors(part.lists["remote-ts"])
		all = append(all, c)
	}
	return all
}

// peerOf is who the other end proved to be. If it did so within IKE, by EAP or
// XAuth, then its IKE identity is only what it says, or that of a group.
func peerOf(ike *section) string {
	return cmp.Or(ike.values["remote-eap-id"], ike.values["remote-xauth-id"], ike.values["remote-id"])
}

func parseSPI(text string) uint32 {
	n, err := strconv.ParseUint(text, 16, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// selectors reads a list. What it does not understand covers nothing.
func selectors(texts []string) (all []trafficSelector) {
	for _, t := range texts {
		if s, ok := parseSelectorText(t); ok {
			all = append(all, s)
		}
	}
	return all
}
