//go:build !race && !386 && !s390x

package nowait

import (
	"syscall"
	"unsafe"
)

func read(fd int, b []byte) (int, error) { return call(syscall.SYS_READ, fd, b) }

func write(fd int, b []byte) (int, error) { return call(syscall.SYS_WRITE, fd, b) }

func call(number uintptr, fd int, b []byte) (int, error) {
	n, _, err := syscall.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}

func setLinger(fd int, l *syscall.Linger) error {
	if _, _, err := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), syscall.SOL_SOCKET, syscall.SO_LINGER,
		uintptr(unsafe.Pointer(l)), unsafe.Sizeof(*l), 0); err != 0 {
		return err
	}
	return nil
}
