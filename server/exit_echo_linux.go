package server

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openEcho opens a socket without privileges if the system lets us
// (net.ipv4.ping_group_range), else with. It also gives the ID that echoes have
// there.
func (s Steer) openEcho(ctx context.Context, target netip.Addr) (echoConn, int, error) {
	if conn, err := s.dialPing(target); err == nil {
		id := conn.LocalAddr().(*net.UDPAddr).Port // the system writes it into all that is sent
		return conn, id, nil
	}
	conn, id, err := s.dialRawEcho(ctx, target)
	if err != nil {
		return nil, 0, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { tellUnreachable(int(fd), target) })
	}
	if err != nil {
		conn.Close()
		return nil, 0, err
	}
	return conn, id, nil
}

// dialPing opens a socket for echoes alone.
func (s Steer) dialPing(target netip.Addr) (*net.UDPConn, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(target.AsSlice()[:4])}
	if target.Is6() {
		family, proto, to = unix.AF_INET6, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{Addr: target.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	tellUnreachable(fd, target)
	f := os.NewFile(uintptr(fd), "icmp")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := s.control("", target.String(), raw); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, to); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return nil, syscall.EPROTONOSUPPORT
	}
	return udp, nil
}

// tellUnreachable has ICMP errors become the socket's. Without it they would be
// time-outs.
func tellUnreachable(fd int, target netip.Addr) {
	if target.Is4() {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}
