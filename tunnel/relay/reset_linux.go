package relay

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// wasReset tells an end of stream that is none. A socket's pending error can
// be read once: if a Write on the other goroutine has got the ECONNRESET, Read
// reports a clean end. The kernel's state of the connection knows better: it is
// CLOSE after a reset. After both sides have sent FIN it is CLOSE too, so this
// must be asked only while ours has not been sent; afterwards nobody writes who
// could take the error away.
func wasReset(c Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	const closed = 7 // TCP_CLOSE of the kernel's net/tcp_states.h
	reset := false
	raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		reset = err == nil && info.State == closed
	})
	return reset
}
