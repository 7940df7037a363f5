package wglink

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// keepWhole has the kernel send a socket's datagrams whole or not at all, and have routers do
// the same. The kernel takes notice of what routers say (RFC 1191, RFC 8201).
func keepWhole(udp *net.UDPConn) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// A socket has one version of IP or both, and refuses what it has not.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	})
}

// isTooLarge tells whether a datagram was not sent as it does not fit into the path.
func isTooLarge(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

// systemMTU asks the kernel what it knows of the path to a place, with its own ESP taken off; 0
// if it knows nothing. It sends nothing.
func systemMTU(ctx context.Context, d net.Dialer, to netip.AddrPort) (mtu int) {
	c, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return 0
	}
	defer c.Close()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return 0
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	_ = raw.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), level, option); err == nil {
			mtu = n
		}
	})
	return mtu
}
