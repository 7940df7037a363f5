package socks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownerOf tells which local user is at the other end of an app's connection.
func ownerOf(c net.Conn) (uid uint32, err error) {
	if u, ok := c.(unixConn); ok {
		return unixOwner(u)
	}
	return tcpOwner(c)
}

func unixOwner(c syscall.Conn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var ucred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { ucred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return ucred.Uid, nil
}

// canTellOwners tries a look-up with a UDP socket that is known to be ours.
func canTellOwners(local netip.AddrPort, host netip.Addr) error {
	err := checkOwner(local, netip.AddrPortFrom(host, local.Port()), uint32(os.Geteuid()))
	if err != nil {
		return fmt.Errorf("%w (%w)", errors.ErrUnsupported, err)
	}
	return nil
}

// checkOwner fails unless a user holds the UDP socket at source to which packets from
// door would go.
func checkOwner(source, door netip.AddrPort, uid uint32) error {
	// What is looked up is who would get a packet, so the other end comes first.
	s, err := findSocket(unix.IPPROTO_UDP, door, source)
	switch {
	case err != nil:
		return fmt.Errorf("find the app's UDP socket: %w", err)
	case s.local.Port() != source.Port() || s.local.Addr() != source.Addr() && !s.local.Addr().IsUnspecified():
		return errors.New("find the app's UDP socket: it is gone")
	case s.inode == 0:
		return errors.New("find the app's UDP socket: the app has closed it")
	case s.uid != uid:
		return fmt.Errorf("%w (uid %d)", errOtherUser, s.uid)
	}
	return nil
}
