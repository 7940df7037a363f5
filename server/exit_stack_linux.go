package server

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

const canFastOpen = true

// setFastOpen makes connect wait for the first bytes, where the target has given out
// a cookie, and else ask for one.
func setFastOpen(raw syscall.RawConn) error {
	return control(raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	})
}

// awaitPeer waits until the target has answered, for a connection that counts as
// such already.
func awaitPeer(c relay.Conn) error {
	s, ok := c.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		if err == nil && info.State == tcpSYNSent {
			return false
		}
		errno := 0
		if err == nil {
			errno, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		}
		if failed = err; errno != 0 {
			failed = syscall.Errno(errno)
		}
		return true
	})
	return errors.Join(err, failed)
}

const (
	tcpSYNSent    = 2    // TCP_SYN_SENT of tcp_states.h
	synDataSeen   = 0x20 // TCPI_OPT_SYN_DATA: the target has acknowledged what came with the SYN
	dontFragment4 = unix.IP_PMTUDISC_DO
	fragment4     = unix.IP_PMTUDISC_DONT
)

// fastOpened is how many of n bytes have gone with the SYN.
func fastOpened(raw syscall.RawConn, n int) int {
	var info *unix.TCPInfo
	err := control(raw, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		return err
	})
	if err != nil || info.Options&synDataSeen == 0 {
		return 0
	}
	return min(n, int(info.Snd_mss))
}

func setNoFragment(fd int, four bool, on bool) error {
	value := fragment4
	if on {
		value = dontFragment4
	}
	if four {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, value)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, value)
}

// getNoFragment tells it of the two settings that leave no doubt.
func getNoFragment(fd int, four bool) (int, error) {
	value, err := 0, error(nil)
	if four {
		value, err = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER)
	} else {
		value, err = unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER)
	}
	switch {
	case err != nil:
		return 0, err
	case value == dontFragment4:
		return socks.StackOn6, nil
	case value == fragment4:
		return socks.StackOff6, nil
	}
	return 0, errors.ErrUnsupported
}
