package ipseclink

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// receiveRoom is how many bytes of datagrams may wait in the kernel.
const receiveRoom = 1 << 20

// openUDP opens a socket for the packets of UDP between two addresses and ports, after
// protect has had its say. A server has one such port for all its clients, and one socket
// for each; who else sends to that port is told by the kernel that nobody is there.
func openUDP(ctx context.Context, local, remote netip.AddrPort, protect func(syscall.RawConn) error) (*net.UDPConn, error) {
	network, level, discover, always := "udp4", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
	if remote.Addr().Is6() {
		network, level, discover, always = "udp6", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
	}
	d := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(local),
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			if e := raw.Control(func(fd uintptr) {
				err = cmp.Or(
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), // by programs of the same user
					unix.SetsockoptInt(int(fd), level, discover, always))               // nothing is cut in pieces
			}); e != nil {
				return e
			}
			if err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
			return protect(raw)
		},
	}
	conn, err := d.DialContext(ctx, network, remote.String())
	if err != nil {
		return nil, err
	}
	udp := conn.(*net.UDPConn)
	_ = udp.SetReadBuffer(receiveRoom) // with less, more may get lost
	return udp, nil
}

// transmit sends a message, or drops it. It tells whether it was too long.
func transmit(fd uintptr, message []byte) (tooLong bool) {
	return unix.Send(int(fd), message, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) == unix.EMSGSIZE
}
