package ipsec

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hold is what a socket can be tied to: an interface that drops what it cannot protect,
// or a pair of associations.
type hold struct {
	device  uint32 // 0: none
	out, in template
}

func (h hold) by() (device uint32) { return h.device }

// template asks for an association like this one, also under another key.
func (s *state) template() template {
	t := template{protocol: s.protocol, mode: s.mode, reqID: s.reqID}
	if s.mode != modeTransport {
		t.src, t.dst = s.src, s.dst
	}
	return t
}

var (
	errMultipath = errors.New("multipath TCP has paths that cannot be tied")
	errDualStack = errors.New("a socket for both versions of IP cannot be tied to what protects IPv4: listen on an IPv4 address")
)

// tie has the kernel refuse to send by a socket, and drop what comes to it, by any
// other way. To interfaces everybody may tie a socket once; associations take
// CAP_NET_ADMIN.
func (h hold) tie(c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = h.tieSocket(int(fd)) }); e != nil {
		return e
	}
	return err
}

func (h hold) tieSocket(fd int) error {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if protocol == unix.IPPROTO_MPTCP {
		return errMultipath
	}
	if h.device != 0 {
		if device, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX); err == nil && device == int(h.device) {
			return nil
		}
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, int(h.device)))
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_XFRM_POLICY
	if domain == unix.AF_INET6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY
		if mapped(fd) {
			return errDualStack
		}
	}
	for dir, t := range map[direction]template{outward: h.out, inward: h.in} {
		policy := socketPolicy(uint16(domain), dir, t)
		if err := unix.SetsockoptString(fd, level, option, string(policy)); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// markOf is a socket's mark.
func markOf(c syscall.RawConn) (mark uint32) {
	_ = c.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); err == nil {
			mark = uint32(n)
		}
	})
	return mark
}

// ageOf tells how long ago a TCP connection came in by which nothing has been sent yet.
func ageOf(c syscall.RawConn) (age time.Duration, ok bool) {
	_ = c.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			age, ok = time.Duration(info.Last_data_sent)*time.Millisecond, true
		}
	})
	return age, ok
}

// setSegment says how large the segments of a TCP connection may be, either way.
func setSegment(fd uintptr, size int) error {
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, size)
}

// mapped tells whether a socket of IPv6 talks to IPv4, or may come to.
func mapped(fd int) bool {
	if peer, err := unix.Getpeername(fd); err == nil {
		six, ok := peer.(*unix.SockaddrInet6)
		return !ok || netip.AddrFrom16(six.Addr).Is4In6()
	}
	only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	return err != nil || only == 0
}

// socketPolicy makes a policy for all packets of one direction, with one template.
func socketPolicy(family uint16, dir direction, t template) []byte {
	b := make([]byte, sizeofPolicy+sizeofTemplate)
	binary.NativeEndian.PutUint16(b[40:], family) // of the selector, which is for everything
	for at := sizeofSelector; at < sizeofSelector+4*8; at += 8 {
		binary.NativeEndian.PutUint64(b[at:], math.MaxUint64) // it lives for ever
	}
	b[160] = byte(dir)
	wanted := b[sizeofPolicy:]
	copy(wanted, t.dst.AsSlice())
	wanted[20] = t.protocol
	binary.NativeEndian.PutUint16(wanted[24:], family)
	copy(wanted[28:], t.src.AsSlice())
	binary.NativeEndian.PutUint32(wanted[44:], t.reqID)
	wanted[48] = byte(t.mode)
	for at := 52; at < sizeofTemplate; at += 4 {
		binary.NativeEndian.PutUint32(wanted[at:], math.MaxUint32) // whatever algorithms the association has
	}
	return b
}
