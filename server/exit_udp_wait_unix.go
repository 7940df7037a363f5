//go:build unix && !linux

package server

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// waitReadable returns when there is something to read.
func waitReadable(raw syscall.RawConn) error {
	return raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		return err != nil || n > 0
	})
}
