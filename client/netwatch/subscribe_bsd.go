//go:build darwin || freebsd

package netwatch

import (
	"os"

	"golang.org/x/sys/unix"
)

// subscribe opens a routing socket, see route(4). No look of its own comes with
// it, so interfaces are polled as well.
func subscribe() (notices *os.File, look func(*fingerprint) error, err error) {
	fd, err := unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, unix.AF_UNSPEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, nil, os.NewSyscallError("setnonblock", err)
	}
	return os.NewFile(uintptr(fd), "routing socket"), nil, nil
}
