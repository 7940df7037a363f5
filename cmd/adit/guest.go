package main

import (
	"crypto/sha256"
	"net/netip"

	"github.com/adit-net/adit/server/users"
)

// guestNetwork is where guests have their addresses, inside WireGuard.
type guestNetwork struct{ ip4, ip6 netip.Prefix }

// guestPrefixLabel separates the hash below from whatever else is made of a
// server's key.
const guestPrefixLabel = "adit guest prefix 1"

// newGuestNetwork gives the network of a server that has a public key. Its IPv6 part is
// a unique local one (RFC 4193) that comes of the key, so that nobody has to choose it.
func newGuestNetwork(c wireGuardConfig, server [32]byte) (guestNetwork, error) {
	ip4, err := netip.ParsePrefix(c.Network)
	if err != nil {
		return guestNetwork{}, err
	}
	sum := sha256.Sum256(append([]byte(guestPrefixLabel), server[:]...))
	ip6 := [16]byte{0: 0xfd}
	copy(ip6[1:8], sum[:])
	return guestNetwork{ip4: ip4, ip6: netip.PrefixFrom(netip.AddrFrom16(ip6), 64)}, nil
}

// server gives the addresses at which guests find the server itself.
func (n guestNetwork) server() []netip.Addr {
	return []netip.Addr{n.ip4.Addr().Next(), n.ip6.Addr().Next()}
}

// inner gives the same addresses with the networks that they are in.
func (n guestNetwork) inner() []netip.Prefix {
	own := n.server()
	return []netip.Prefix{netip.PrefixFrom(own[0], n.ip4.Bits()), netip.PrefixFrom(own[1], n.ip6.Bits())}
}

// of gives the addresses of a guest. The IPv6 one ends in the IPv4 one.
func (n guestNetwork) of(d users.Device) []netip.Addr {
	ip6, ip4 := n.ip6.Addr().As16(), d.Address.As4()
	copy(ip6[12:], ip4[:])
	return []netip.Addr{d.Address, netip.AddrFrom16(ip6)}
}
