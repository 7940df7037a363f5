//go:build unix

package tlslink

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/adit-net/adit/tunnel/nowait"
)

type socketReader = nowait.Reader

// pollable gives access to a TCP connection's socket.
func pollable(c net.Conn) syscall.RawConn { return nowait.Socket(c) }

// readReady reads what there is into a fresh buffer. It returns false if there
// is nothing yet: the poller then calls it again when there is.
func (w *wire) readReady(fd uintptr) bool {
	buf := inBuffers.Get().(*[inSize]byte)
	n, err := w.reader.Read(int(fd), buf[:])
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
		w.inErr = w.failed("read", err)
	}
	return true
}

// writeReady writes what there is in out. It returns false if not all of it can go
// yet: the poller then calls it again when more can.
func (w *wire) writeReady(fd uintptr) bool {
	for w.outFrom < w.outTo {
		n, err := nowait.Write(int(fd), w.out[w.outFrom:w.outTo])
		switch err {
		case nil:
			w.outFrom += n
		case syscall.EAGAIN:
			return w.outNow
		default:
			w.outErr = w.failed("write", err)
			return true
		}
	}
	return true
}

func (w *wire) failed(call string, err error) error {
	return &net.OpError{Op: call, Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: os.NewSyscallError(call, err)}
}
