package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
	unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE |
	unix.RTMGRP_IPV4_RULE | 1<<(unix.RTNLGRP_IPV6_RULE-1)

// subscribe joins rtnetlink's groups, see rtnetlink(7). It needs no privilege
// but on Android, where apps may not. look sees all that the notices tell of.
func subscribe() (notices *os.File, look func(*fingerprint) error, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), lookAtKernel, nil
}

// lookAtKernel sees links, addresses, and the routes and rules of all tables:
// other VPNs put their default routes into tables of their own.
func lookAtKernel(f *fingerprint) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	b := make([]byte, 32<<10) // the most that the kernel puts into one answer
	for _, what := range []uint16{unix.RTM_GETLINK, unix.RTM_GETADDR, unix.RTM_GETROUTE, unix.RTM_GETRULE} {
		err := dump(fd, what, b, f)
		if errors.Is(err, unix.EOPNOTSUPP) && what == unix.RTM_GETRULE {
			continue // a small kernel has no rules
		}
		if err != nil {
			return fmt.Errorf("ask rtnetlink for %d: %w", what, err)
		}
	}
	return nil
}

// dump adds all things of one kind.
func dump(fd int, what uint16, b []byte, f *fingerprint) error {
	question := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofRtGenmsg) // of any family
	binary.NativeEndian.PutUint32(question, uint32(len(question)))
	binary.NativeEndian.PutUint16(question[4:], what)
	binary.NativeEndian.PutUint16(question[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, question, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	for {
		// The kernel answers within sendto and recvfrom, so nothing waits here.
		n, from, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not the kernel's
		}
		for kind, body := range messages(b[:n]) {
			switch kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return verdict(body)
			}
			if thing := essence(kind, body); thing != nil {
				f.add(thing)
			}
		}
	}
}

// verdict is what the last message of an answer says.
func verdict(body []byte) error {
	if len(body) >= 4 {
		if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
			return syscall.Errno(-code)
		}
	}
	return nil
}

// messages gives the type and the body of each whole message in b.
func messages(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) ||
				!yield(binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:size]) {
				return
			}
			b = b[min(aligned(size), len(b)):]
		}
	}
}

const attributeType = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// attributes gives the type and the value of each whole attribute in b.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) ||
				!yield(binary.NativeEndian.Uint16(b[2:])&attributeType, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(aligned(size), len(b)):]
		}
	}
}

func aligned(n int) int { return (n + 3) &^ 3 }

// essence gives what tells a thing from others and says where packets go, or
// nil if the thing leads nowhere now. Lifetimes, counters and names are not of it.
func essence(kind uint16, body []byte) []byte {
	switch kind {
	case unix.RTM_NEWLINK:
		return linkEssence(body)
	case unix.RTM_NEWADDR:
		return addressEssence(body)
	case unix.RTM_NEWROUTE:
		return routeEssence(body)
	case unix.RTM_NEWRULE:
		return append([]byte{unix.RTM_NEWRULE}, body...)
	}
	return nil
}

// linkEssence is the number of a link that is up and has a carrier.
func linkEssence(body []byte) []byte {
	const on = unix.IFF_UP | unix.IFF_RUNNING
	if len(body) < unix.SizeofIfInfomsg || binary.NativeEndian.Uint32(body[8:])&on != on {
		return nil
	}
	return append([]byte{unix.RTM_NEWLINK}, body[4:8]...)
}

// addressEssence is an address with its prefix and link. One that others may
// hold, too, cannot be used.
func addressEssence(body []byte) []byte {
	if len(body) < unix.SizeofIfAddrmsg {
		return nil
	}
	if flags := body[2]; flags&unix.IFA_F_TENTATIVE != 0 && flags&unix.IFA_F_OPTIMISTIC == 0 {
		return nil
	}
	e := append([]byte{unix.RTM_NEWADDR}, body[:2]...)
	e = append(e, body[4:8]...)
	return appendAttributes(e, body[unix.SizeofIfAddrmsg:], 1<<unix.IFA_ADDRESS|1<<unix.IFA_LOCAL)
}

// routeEssence is a route of IPv4 or IPv6 with all that decides who takes it
// and where it leads. The local table only repeats the addresses.
func routeEssence(body []byte) []byte {
	if len(body) < unix.SizeofRtMsg {
		return nil
	}
	const off = unix.RTM_F_CLONED | unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN
	family, table, flags := body[0], body[4], binary.NativeEndian.Uint32(body[8:])
	if family != unix.AF_INET && family != unix.AF_INET6 || table == unix.RT_TABLE_LOCAL || flags&off != 0 {
		return nil
	}
	e := append([]byte{unix.RTM_NEWROUTE}, body[:5]...)
	e = append(e, body[7]) // its type
	return appendAttributes(e, body[unix.SizeofRtMsg:], 1<<unix.RTA_DST|1<<unix.RTA_SRC|1<<unix.RTA_IIF|
		1<<unix.RTA_OIF|1<<unix.RTA_GATEWAY|1<<unix.RTA_VIA|1<<unix.RTA_PRIORITY|
		1<<unix.RTA_PREFSRC|1<<unix.RTA_MULTIPATH|1<<unix.RTA_TABLE)
}

// appendAttributes appends those attributes whose bits are set in wanted.
func appendAttributes(e, b []byte, wanted uint64) []byte {
	for kind, value := range attributes(b) {
		if wanted&(1<<kind) != 0 {
			e = append(e, byte(kind), byte(len(value)))
			e = append(e, value...)
		}
	}
	return e
}
