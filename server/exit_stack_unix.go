//go:build unix

package server

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/socks"
)

// control calls f with the descriptor of a socket.
func control(raw syscall.RawConn, f func(fd int) error) error {
	var failed error
	err := raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// setStack sets an option of a socket that has not connected yet.
func setStack(raw syscall.RawConn, four bool, kind socks.StackKind6, value int) error {
	return control(raw, func(fd int) error {
		if kind == socks.StackNoFragmentation6 {
			return setNoFragment(fd, four, value == socks.StackOn6)
		}
		level, name, err := octetOption(four, kind)
		if err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, level, name, value)
	})
}

// getStack tells what an option of a socket is.
func getStack(raw syscall.RawConn, four bool, kind socks.StackKind6) (value int, err error) {
	err = control(raw, func(fd int) error {
		if kind == socks.StackNoFragmentation6 {
			value, err = getNoFragment(fd, four)
			return err
		}
		level, name, err := octetOption(four, kind)
		if err != nil {
			return err
		}
		value, err = unix.GetsockoptInt(fd, level, name)
		return err
	})
	return value, err
}

// octetOption names the socket option for an octet of the IP header.
func octetOption(four bool, kind socks.StackKind6) (level, name int, err error) {
	switch {
	case kind == socks.StackTOS6 && four:
		return unix.IPPROTO_IP, unix.IP_TOS, nil
	case kind == socks.StackTOS6:
		return unix.IPPROTO_IPV6, unix.IPV6_TCLASS, nil
	case kind == socks.StackTTL6 && four:
		return unix.IPPROTO_IP, unix.IP_TTL, nil
	case kind == socks.StackTTL6:
		return unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, nil
	}
	return 0, 0, errors.ErrUnsupported
}
