package netwatch

import (
	"fmt"
	"net"
	"net/netip"
)

// The way to these two root name servers stands for the way to everywhere.
// Nothing is sent to them.
var (
	somewhere4 = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 41, 0, 4}), 53)
	somewhere6 = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x05, 0x03, 0xba, 0x3e, 13: 0x02, 15: 0x30}), 53)
)

// lookAround sees what every system shows: links, addresses, and the addresses
// that are used by default, which change with the default routes. What a system
// keeps to itself, as Android does with the first two, is left out. It never fails.
func lookAround(f *fingerprint) error {
	links, _ := net.Interfaces()
	for _, l := range links {
		f.add(fmt.Append(nil, "link ", l.Index, l.Flags&(net.FlagUp|net.FlagRunning)))
	}
	own, _ := net.InterfaceAddrs()
	for _, a := range own {
		f.add(fmt.Append(nil, "address ", a))
	}
	for _, remote := range []netip.AddrPort{somewhere4, somewhere6} {
		if source, err := Source(remote); err == nil {
			f.add(fmt.Append(nil, "source ", source))
		}
	}
	return nil
}
