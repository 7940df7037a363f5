//go:build unix

package relay

import (
	"cmp"
	"os"
	"syscall"

	"github.com/adit-net/adit/tunnel/nowait"
)

// Write is that of the TCP connection. A short piece that has room costs the scheduler nothing.
func (c tcpConn) Write(p []byte) (n int, err error) {
	wait := c.raw.Write(func(fd uintptr) bool {
		for n < len(p) {
			k, failed := nowait.Write(int(fd), p[n:])
			switch failed {
			case nil:
				n += k
			case syscall.EAGAIN:
				return false
			default:
				err = os.NewSyscallError("write", failed)
				return true
			}
		}
		return true
	})
	return n, cmp.Or(wait, err)
}
