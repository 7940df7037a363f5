package tlslink

import (
	"net"

	"golang.org/x/sys/unix"
)

const (
	// notSent is how many bytes may wait in the kernel that TCP has not sent
	// yet. More would only be a queue in which interactive bytes stand behind
	// bulk. It does not slow bulk down: what has been sent and not acknowledged
	// does not count.
	notSent = 64 << 10

	// userTimeout (RFC 5482) is how many milliseconds sent bytes may go
	// unacknowledged, or a peer's window stay closed, before the connection is
	// given up. The kernel's own retries take 15 minutes.
	userTimeout = 30_000
)

func tuneMore(tcp *net.TCPConn) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, userTimeout)
	})
}
