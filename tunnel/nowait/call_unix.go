//go:build unix && (!linux || race || 386 || s390x)

package nowait

import "syscall"

// The race detector knows of the order that bytes in a socket make if package syscall moves them.

func read(fd int, b []byte) (int, error) { return syscall.Read(fd, b) }

func write(fd int, b []byte) (int, error) { return syscall.Write(fd, b) }

func setLinger(fd int, l *syscall.Linger) error {
	return syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, l)
}
