package tlslink

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

const (
	// notSent is how many bytes may wait in the kernel that TCP has not sent
	// yet. More would only be a queue that interactive bytes stand in behind
	// bulk, and it does not slow bulk down: what has been sent and not
	// acknowledged does not count.
	notSent = 64 << 10

	// userTimeout (RFC 5482) is how many milliseconds sent bytes may go
	// unacknowledged before the connection is given up. The kernel's own
	// retries take 15 minutes.
	userTimeout = 30_000
)

func tuneMore(tcp *net.TCPConn) error {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = errors.Join(
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, userTimeout),
		)
	})
	return errors.Join(err, set)
}
