package tlslink

import (
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"
)

// From linux/mptcp.h.
const (
	solMPTCP  = 284
	mptcpInfo = 1 // MPTCP_INFO: struct mptcp_info; its first byte counts the paths beyond the first
)

// pathless tells whether a Multipath TCP connection has no path left. Where the
// system cannot tell, it has one.
func pathless(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	lost := false
	err = raw.Control(func(fd uintptr) {
		head, err := unix.GetsockoptInt(int(fd), solMPTCP, mptcpInfo)
		if err != nil || binary.NativeEndian.AppendUint32(nil, uint32(head))[0] > 0 {
			return
		}
		first, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		lost = err == nil && first.State != unix.BPF_TCP_ESTABLISHED
	})
	return err == nil && lost
}
