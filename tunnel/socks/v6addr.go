package socks

import (
	"bytes"
	"fmt"
	"net/netip"
)

// Address types of SOCKS 6.
const (
	typeIPv4in6 = 1
	typeNameIn6 = 3
	typeIPv6in6 = 4
)

// addrSize6 is how many bytes an address takes. The first of them is a name's
// length; with the name it is padded to a multiple of 4, so a size is never
// above 256.
func addrSize6(kind, first byte) (int, error) {
	switch kind {
	case typeIPv4in6:
		return 4, nil
	case typeNameIn6:
		return aligned6(1 + int(first)), nil
	case typeIPv6in6:
		return 16, nil
	}
	return 0, fmt.Errorf("address type %d is not known", kind)
}

// parseAddr6 reads an address of the size that addrSize6 gave. A name's length
// may count the NULs that pad it, as newer drafts want, or not.
func parseAddr6(kind byte, b []byte, port uint16) (Addr, error) {
	switch kind {
	case typeIPv4in6:
		return Addr{IP: netip.AddrFrom4([4]byte(b)), Port: port}, nil
	case typeIPv6in6:
		return Addr{IP: netip.AddrFrom16([16]byte(b)), Port: port}, nil
	}
	name := b[1 : 1+int(b[0])]
	return NewAddr(string(bytes.TrimRight(name, "\x00")), port)
}

// orAny6 gives 0.0.0.0 for an address that is not given.
func orAny6(a Addr) Addr {
	if a.Name == "" && !a.IP.IsValid() {
		a.IP = netip.IPv4Unspecified()
	}
	return a
}

// checkAddr6 gives the address as it travels: an IP that was written as a name
// is sent as an IP.
func checkAddr6(a Addr) (Addr, error) {
	if !a.IP.IsValid() {
		return NewAddr(a.Name, a.Port)
	}
	if a.IP.Zone() != "" {
		return Addr{}, errBadName
	}
	return a, nil
}

func addrType6(a Addr) byte {
	switch {
	case a.IP.Is4():
		return typeIPv4in6
	case a.IP.IsValid():
		return typeIPv6in6
	}
	return typeNameIn6
}

// appendHost6 appends the host of an address that checkAddr6 has passed.
func appendHost6(b []byte, a Addr) []byte {
	if a.IP.IsValid() {
		return append(b, a.IP.AsSlice()...)
	}
	size := aligned6(1 + len(a.Name))
	b = append(b, byte(size-1))
	b = append(b, a.Name...)
	return append(b, make([]byte, size-1-len(a.Name))...)
}

// aligned6 rounds n up to a multiple of 4, as all parts of a message are.
func aligned6(n int) int { return (n + 3) &^ 3 }
