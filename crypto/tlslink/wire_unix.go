//go:build unix

package tlslink

import (
	"io"
	"net"
	"os"
	"syscall"
)

// pollable gives access to a TCP connection's socket. Other connections may do
// something of their own in Read, and are not bypassed.
func pollable(c net.Conn) syscall.RawConn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// readReady reads what there is into a fresh buffer. It returns false if there
// is nothing yet: the poller then calls it again when there is.
func (w *wire) readReady(fd uintptr) bool {
	buf := inBuffers.Get().(*[inSize]byte)
	n, err := syscall.Read(int(fd), buf[:])
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), buf[:])
	}
	if n > 0 {
		w.in, w.inTo = buf, n
		return true
	}
	inBuffers.Put(buf)
	switch err {
	case syscall.EAGAIN:
		return false
	case nil:
		w.inErr = io.EOF
	default:
		w.inErr = &net.OpError{Op: "read", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: os.NewSyscallError("read", err)}
	}
	return true
}
