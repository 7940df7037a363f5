package relay

import "golang.org/x/sys/unix"

// Gone tells whether a connection does not exist any more in the kernel,
// because it was reset or because both directions have ended. It is false where that
// cannot be told.
func Gone(c Conn) bool {
	raw := rawOf(c)
	if raw == nil {
		return false
	}
	const closed = 7 // TCP_CLOSE of the kernel's net/tcp_states.h
	is := false
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		is = err == nil && info.State == closed
	})
	return err == nil && is
}
