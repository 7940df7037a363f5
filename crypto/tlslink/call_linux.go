package tlslink

import (
	"syscall"
	"unsafe"
)

// Before a system call that may wait, Go's scheduler gets ready to do without the
// processor, and wakes the thread that watches over that if all was idle before. Those on a
// socket that does not block need neither, and a small record costs less than that. But the
// thread also sees to it that no goroutine keeps others from the processor or the
// network, so a reader who has had no rest does wake it.

// readNow is read(2) of something that does not block.
func readNow(fd int, b []byte) (int, error) { return now(syscall.SYS_READ, fd, b) }

// writeNow is write(2) to something that does not block.
func writeNow(fd int, b []byte) (int, error) { return now(syscall.SYS_WRITE, fd, b) }

func now(call uintptr, fd int, b []byte) (int, error) {
	n, _, err := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}
