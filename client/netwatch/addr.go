package netwatch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
)

// Source gives the local address that the kernel would use towards remote now.
// No packet is sent. It is an error if there is no route.
func Source(remote netip.AddrPort) (netip.Addr, error) {
	if !remote.Addr().IsValid() {
		return netip.Addr{}, errors.New("find the way: no address is given")
	}
	if remote.Port() == 0 {
		remote = netip.AddrPortFrom(remote.Addr(), 9) // some systems refuse 0
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(remote))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the way to %v: %w", remote.Addr(), err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// Has tells whether addr is an address of this machine, and if it has a zone,
// of that link. Loopback addresses always are. An IPv4 address may be mapped to
// IPv6.
func Has(addr netip.Addr) (bool, error) {
	addr = addr.Unmap()
	if addr.IsLoopback() {
		return true, nil
	}
	own, err := addresses(addr.Zone())
	if err != nil {
		// Apps on Android may not ask.
		return canBind(addr)
	}
	return slices.ContainsFunc(own, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		ip, _ := netip.AddrFromSlice(n.IP)
		return ip.Unmap() == addr.WithZone("")
	}), nil
}

// addresses gives the addresses of the link that zone names or numbers, or of
// all links if it is empty.
func addresses(zone string) ([]net.Addr, error) {
	if zone == "" {
		return net.InterfaceAddrs()
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Name == zone || strconv.Itoa(l.Index) == zone {
			return l.Addrs()
		}
	}
	return nil, nil
}

// canBind tells whether addr is an address of this machine by using it. The
// list is better where it can be had: some kernels are set to let sockets use
// any address, and some firewalls ask the user about each.
func canBind(addr netip.Addr) (bool, error) {
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
		return false, nil
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for the address %v: %w", addr, err)
	}
	return true, c.Close()
}
