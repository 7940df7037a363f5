package server

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/socks"
)

// maxLosses is how many losses are told of in one go.
const maxLosses = 32

// losses tells of what is in the socket's error queue (ip(7), IP_RECVERR).
func (s *udpSocket) losses(lost func(socks.Loss)) {
	var (
		all     [maxLosses]socks.Loss
		n       int
		control [256]byte
	)
	s.errors.Lock()
	_ = s.raw.Control(func(fd uintptr) {
		for range all {
			_, size, _, to, err := unix.Recvmsg(int(fd), nil, control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			if l, ok := parseLoss(control[:size]); ok {
				l.To = addrPortOf(to)
				all[n] = l
				n++
			}
		}
	})
	s.errors.Unlock()
	for _, l := range all[:n] {
		lost(l)
	}
}

func addrPortOf(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// parseLoss reads the control messages that come with an error. The destination is
// not in them.
func parseLoss(control []byte) (l socks.Loss, ok bool) {
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return socks.Loss{}, false
		}
		if h.Level == unix.SOL_IP && h.Type == unix.IP_RECVERR || h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_RECVERR {
			return parseExtendedError(data)
		}
		control = rest
	}
	return socks.Loss{}, false
}

// extendedErrorSize is the size of a struct sock_extended_err; the address of who
// says so comes behind it.
const extendedErrorSize = 16

func parseExtendedError(b []byte) (l socks.Loss, ok bool) {
	if len(b) < extendedErrorSize {
		return socks.Loss{}, false
	}
	errno := syscall.Errno(binary.NativeEndian.Uint32(b))
	origin, kind, code, info := b[4], b[5], b[6], binary.NativeEndian.Uint32(b[8:])
	switch origin {
	case unix.SO_EE_ORIGIN_ICMP:
		l.Code, ok = icmpCode(kind, code)
	case unix.SO_EE_ORIGIN_ICMP6:
		l.Code, ok = icmp6Code(kind, code)
	case unix.SO_EE_ORIGIN_LOCAL:
		l.Code, ok = socks.CodeOf(errno), true
	}
	if errno == unix.EMSGSIZE {
		l.MTU = int(info)
	}
	l.Reporter = reporter(b[extendedErrorSize:])
	return l, ok
}

// reporter reads a struct sockaddr_in or sockaddr_in6.
func reporter(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET && len(b) >= 8:
		return netip.AddrFrom4([4]byte(b[4:]))
	case family == unix.AF_INET6 && len(b) >= 24:
		return netip.AddrFrom16([16]byte(b[8:])).Unmap()
	}
	return netip.Addr{}
}
