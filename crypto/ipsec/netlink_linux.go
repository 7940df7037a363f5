package ipsec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var errMalformed = errors.New("the kernel's answer makes no sense")

// mostAnswer is the most that the kernel puts into one packet of an answer.
const mostAnswer = 32 << 10

// ask sends the kernel one question of rtnetlink(7)'s kind and calls each with
// every message of the answer, whose body is gone when each returns. An answer
// that was not whole is an error.
func ask(protocol int, question uint16, flags uint16, body []byte, each func(kind uint16, body []byte) error) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	q := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(q, uint32(cap(q)))
	binary.NativeEndian.PutUint16(q[4:], question)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST|flags)
	if err := unix.Sendto(fd, append(q, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	b := make([]byte, mostAnswer)
	defer clear(b) // the kernel tells the keys of associations, too
	for {
		// The kernel answers within sendto and recvfrom, so nothing waits here.
		n, from, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not the kernel's
		}
		if n > len(b) {
			return errMalformed
		}
		if done, err := readAnswer(b[:n], each); done || err != nil {
			return err
		}
	}
}

// readAnswer reads one packet of an answer; done says that it is the last.
func readAnswer(b []byte, each func(kind uint16, body []byte) error) (done bool, err error) {
	for len(b) > 0 {
		if len(b) < unix.NLMSG_HDRLEN {
			return false, errMalformed
		}
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return false, errMalformed
		}
		kind, body := binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:size]
		switch {
		case binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_DUMP_INTR != 0:
			return false, errors.New("what was asked for changed meanwhile")
		case kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE:
			return true, verdict(kind, body)
		}
		if err := each(kind, body); err != nil {
			return false, err
		}
		b = b[min(aligned(size), len(b)):]
	}
	return false, nil
}

// verdict is what the last message of an answer says.
func verdict(kind uint16, body []byte) error {
	if len(body) < 4 {
		if kind == unix.NLMSG_DONE {
			return nil
		}
		return errMalformed
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
		return syscall.Errno(-code)
	}
	return nil
}

func aligned(n int) int { return (n + 3) &^ 3 }

const attributeType = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// attributes are values by their type. Of two of one type the last counts.
type attributes map[uint16][]byte

// readAttributes reads what fills b to the last byte.
func readAttributes(b []byte) (attributes, error) {
	all := attributes{}
	for len(b) > 0 {
		if len(b) < unix.SizeofRtAttr {
			return nil, errMalformed
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return nil, errMalformed
		}
		all[binary.NativeEndian.Uint16(b[2:])&attributeType] = b[unix.SizeofRtAttr:size]
		b = b[min(aligned(size), len(b)):]
	}
	return all, nil
}

// nested reads the attributes in one; there are none if that is not there.
func (a attributes) nested(kind uint16) (attributes, error) {
	inner, err := readAttributes(a[kind])
	if err != nil {
		return nil, fmt.Errorf("attribute %d: %w", kind, err)
	}
	return inner, nil
}

// uint32 gives a number in the machine's byte order, and 0 if it is not there.
func (a attributes) uint32(kind uint16) (uint32, error) {
	return number(a[kind], binary.NativeEndian)
}

// bigUint32 is one in the network's byte order.
func (a attributes) bigUint32(kind uint16) (uint32, error) { return number(a[kind], binary.BigEndian) }

func number(b []byte, order binary.ByteOrder) (uint32, error) {
	switch len(b) {
	case 0:
		return 0, nil
	case 4:
		return order.Uint32(b), nil
	}
	return 0, errMalformed
}

// appendAttribute appends one, padded.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, aligned(len(value))-len(value))...)
}
