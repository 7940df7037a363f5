package server

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// kind is what sort of target an address is. Its text is for people, and for
// the words of [ParseAllow].
type kind string

const (
	public    kind = "public"
	loopback  kind = "loopback"
	private   kind = "private"
	linkLocal kind = "link-local"
	metadata  kind = "cloud metadata"
	multicast kind = "multicast"
	reserved  kind = "reserved"
)

// Allow says which targets may be reached beside public ones. Cloud metadata,
// multicast, broadcast and reserved addresses never may.
type Allow struct {
	Loopback  bool // 127.0.0.0/8 and ::1: the exit's own host
	Private   bool // RFC 1918, RFC 4193, RFC 6598 (carrier-grade NAT) and RFC 2544 (benchmarks)
	LinkLocal bool // 169.254.0.0/16 and fe80::/10
}

// ParseAllow reads the words "loopback", "private" and "link-local".
func ParseAllow(words []string) (Allow, error) {
	var a Allow
	for _, word := range words {
		switch kind(word) {
		case loopback:
			a.Loopback = true
		case private:
			a.Private = true
		case linkLocal:
			a.LinkLocal = true
		default:
			return Allow{}, fmt.Errorf("allow %q: the words are loopback, private and link-local", word)
		}
	}
	return a, nil
}

func (a Allow) permits(k kind) bool {
	switch k {
	case public:
		return true
	case loopback:
		return a.Loopback
	case private:
		return a.Private
	case linkLocal:
		return a.LinkLocal
	}
	return false
}

// special is what is not public, the first match counting. It follows IANA's registries
// of special-purpose addresses (RFC 6890). The documentation prefixes count as
// public, as nothing is there that needs protection and laboratories live in
// them.
var special = [...]struct {
	prefix netip.Prefix
	kind   kind
}{
	// Where clouds give their machines secrets, whatever range that is in.
	{netip.MustParsePrefix("169.254.169.0/24"), metadata},   // nearly all; .253 is DNS, .123 time
	{netip.MustParsePrefix("169.254.170.0/24"), metadata},   // AWS: container credentials
	{netip.MustParsePrefix("169.254.0.23/32"), metadata},    // Tencent
	{netip.MustParsePrefix("100.100.100.200/32"), metadata}, // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},   // Azure's wire server
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},     // Oracle
	{netip.MustParsePrefix("fd00:ec2::/32"), metadata},      // AWS: ::254 metadata, ::23 credentials
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},   // Google
	{netip.MustParsePrefix("fd00:42::42/128"), metadata},    // Scaleway
	{netip.MustParsePrefix("fe80::a9fe:a9fe/128"), metadata},

	{netip.MustParsePrefix("0.0.0.0/8"), reserved}, // 0.0.0.0 is this very host to connect(2)
	{netip.MustParsePrefix("10.0.0.0/8"), private},
	{netip.MustParsePrefix("100.64.0.0/10"), private},
	{netip.MustParsePrefix("127.0.0.0/8"), loopback},
	{netip.MustParsePrefix("169.254.0.0/16"), linkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), private},
	{netip.MustParsePrefix("192.0.0.0/24"), reserved},   // IETF protocol assignments
	{netip.MustParsePrefix("192.88.99.0/24"), reserved}, // 6to4 relays, withdrawn
	{netip.MustParsePrefix("192.168.0.0/16"), private},
	{netip.MustParsePrefix("198.18.0.0/15"), private},
	{netip.MustParsePrefix("224.0.0.0/4"), multicast},
	{netip.MustParsePrefix("240.0.0.0/4"), reserved}, // broadcast is the last of them
	{netip.MustParsePrefix("0.0.0.0/0"), public},

	{netip.MustParsePrefix("::1/128"), loopback},
	{netip.MustParsePrefix("64:ff9b::/96"), public}, // NAT64: as public as the IPv4 address in it
	{netip.MustParsePrefix("2001:2::/48"), private}, // benchmarks
	{netip.MustParsePrefix("fc00::/7"), private},
	{netip.MustParsePrefix("fe80::/10"), linkLocal},
	{netip.MustParsePrefix("ff00::/8"), multicast},
	{netip.MustParsePrefix("2000::/3"), public}, // all that IANA has given out
	{netip.MustParsePrefix("::/0"), reserved},   // ::, IPv4-compatible, 64:ff9b:1::/48 and the rest
}

// kindOf gives the kind of an address that is not mapped. Whoever decides must
// ask for each of its [forms].
func kindOf(a netip.Addr) kind {
	if a.Zone() != "" {
		return reserved // it means something on this host alone
	}
	for _, s := range special {
		if s.prefix.Contains(a) {
			return s.kind
		}
	}
	return reserved
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixTo4 = netip.MustParsePrefix("2002::/16")    // RFC 3056
	teredo = netip.MustParsePrefix("2001::/32")    // RFC 4380
)

// forms gives an address as it is dialled, and the IPv4 addresses to which a
// translator or tunnel may take what is sent there. All of them have to be
// allowed.
func forms(a netip.Addr) []netip.Addr {
	a = a.Unmap()
	all := []netip.Addr{a}
	if !a.Is6() {
		return all
	}
	b := a.As16()
	plain := a.WithZone("")
	ipv4 := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(b[at:])) }
	switch {
	case nat64.Contains(plain):
		all = append(all, ipv4(12))
	case sixTo4.Contains(plain):
		all = append(all, ipv4(2))
	case teredo.Contains(plain):
		client := binary.BigEndian.Uint32(b[12:])
		binary.BigEndian.PutUint32(b[12:], ^client)
		return append(all, ipv4(4), ipv4(12)) // the Teredo server, and the client behind it
	}
	// ISATAP (RFC 5214) has a mark in the middle of any prefix.
	if mark := [4]byte(b[8:]); mark == [4]byte{0, 0, 0x5e, 0xfe} || mark == [4]byte{2, 0, 0x5e, 0xfe} {
		all = append(all, ipv4(12))
	}
	return all
}

// owned tells whether a target is one of the listeners in own, where an
// unspecified address stands for all that this host has.
func owned(own []netip.AddrPort, target netip.AddrPort, local func() ([]netip.Addr, error)) (bool, error) {
	for _, l := range own {
		switch at := l.Addr().Unmap(); {
		case l.Port() != target.Port():
		case at == target.Addr():
			return true, nil
		case at.IsUnspecified() && target.Addr().IsLoopback():
			return true, nil
		case at.IsUnspecified():
			addrs, err := local()
			if err != nil || slices.Contains(addrs, target.Addr()) {
				return true, err
			}
		}
	}
	return false, nil
}
