//go:build darwin || freebsd

package wglink

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
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
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_DONTFRAG, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
	})
}

// isTooLarge tells whether a datagram was not sent as it does not fit into the path.
func isTooLarge(err error) bool { return errors.Is(err, unix.EMSGSIZE) }
