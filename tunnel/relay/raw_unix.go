//go:build unix

package relay

import (
	"io"
	"os"
	"syscall"

	"github.com/adit-net/adit/tunnel/nowait"
)

// rawOf gives access to a conn's descriptor; nil if there is none, as its plain methods say
// what is wrong.
func rawOf(c Conn) syscall.RawConn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// rawReader reads a socket without holding a buffer while the socket has
// nothing: it takes one when the kernel says that there is something to read.
type rawReader struct {
	conn syscall.RawConn
	try  func(fd uintptr) bool // made once, so that a read allocates nothing

	from nowait.Reader
	buf  *[]byte
	n    int
	err  error

	first  [1]byte // for look
	failed error   // what look has found
}

func newRawReader(c Conn) *rawReader {
	conn := rawOf(c)
	if conn == nil {
		return nil
	}
	r := &rawReader{conn: conn}
	r.try = r.read
	return r
}

// read is called when fd may be readable; false means that it was not.
func (r *rawReader) read(fd uintptr) bool {
	if r.buf == nil {
		r.buf = buffers.get()
	}
	r.n, r.err = r.from.Read(int(fd), *r.buf)
	if r.err == syscall.EAGAIN {
		buffers.put(&r.buf)
		return false
	}
	return true
}

func (r *rawReader) next(buf **[]byte) ([]byte, error) {
	if r.failed != nil {
		return nil, os.NewSyscallError("read", r.failed)
	}
	r.buf, r.n, r.err = *buf, 0, nil
	err := r.conn.Read(r.try)
	*buf = r.buf
	switch {
	case err != nil:
		return nil, err
	case r.err != nil:
		return nil, os.NewSyscallError("read", r.err)
	case r.n == 0:
		return nil, io.EOF
	}
	return (*r.buf)[:r.n], nil
}

// wait waits until next has something to give, and reads nothing of it.
func (r *rawReader) wait() {
	_ = r.conn.Read(r.look) // next says what is wrong
}

// look is called when fd may be readable; false means that it was not. It needs little stack.
func (r *rawReader) look(fd uintptr) bool {
	for {
		switch _, _, err := syscall.Recvfrom(int(fd), r.first[:], syscall.MSG_PEEK); err {
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			r.failed = err // the kernel says it once
			return true
		}
	}
}

// rawWriter writes to a socket what it has room for.
type rawWriter struct {
	conn syscall.RawConn
	try  func(fd uintptr) bool // made once, so that a write allocates nothing

	buf []byte
	n   int
	err error
}

func newRawWriter(c Conn) *rawWriter {
	conn := rawOf(c)
	if conn == nil {
		return nil
	}
	w := &rawWriter{conn: conn}
	w.try = w.attempt
	return w
}

// attempt never waits until fd is writable.
func (w *rawWriter) attempt(fd uintptr) bool {
	for w.n < len(w.buf) {
		n, err := nowait.Write(int(fd), w.buf[w.n:])
		switch err {
		case nil:
			w.n += n
		case syscall.EAGAIN:
			return true
		default:
			w.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// write writes what there is room for, which may be nothing.
func (w *rawWriter) write(b []byte) (int, error) {
	w.buf, w.n, w.err = b, 0, nil
	err := w.conn.Write(w.try)
	w.buf = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}
