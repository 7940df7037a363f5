package wglink

import (
	"errors"
	"net"

	"golang.org/x/sys/windows"
)

// Options that package windows does not name, see ws2ipdef.h.
const (
	ipDontFragment = 14
	ipv6DontFrag   = 14
)

// keepWhole has the system send a socket's datagrams whole or not at all, and have routers do
// the same.
func keepWhole(udp *net.UDPConn) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// A socket has one version of IP or both, and refuses what it has not.
		_ = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IP, ipDontFragment, 1)
		_ = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, ipv6DontFrag, 1)
	})
}

// isTooLarge tells whether a datagram was not sent as it does not fit into the path.
func isTooLarge(err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }
