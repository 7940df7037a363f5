//go:build unix && !linux

package nowait

import "syscall"

// SetLinger says whether to close a socket, or to die with it, breaks its connection.
func SetLinger(fd int, breaks bool) error {
	var how syscall.Linger
	if breaks {
		how.Onoff = 1
	}
	return syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &how)
}
