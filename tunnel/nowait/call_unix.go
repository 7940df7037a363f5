//go:build unix && (!linux || race)

package nowait

import "syscall"

// The race detector knows of the order that bytes in a socket make if package syscall moves them.

func read(fd int, b []byte) (int, error) { return syscall.Read(fd, b) }

func write(fd int, b []byte) (int, error) { return syscall.Write(fd, b) }
