//go:build unix

package relay

import (
	"cmp"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/adit-net/adit/tunnel/nowait"
)

// reads are those of one socket: one after the other, as their callbacks are.
type reads = nowait.Reader

// Read is that of the TCP connection. What is there already costs the scheduler nothing.
func (c tcpConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t := transfers.Get().(*transfer)
	t.from, t.p = c.from, p
	wait := c.raw.Read(t.read)
	n, err := t.done()
	if n == 0 && cmp.Or(wait, err) == nil {
		return 0, io.EOF
	}
	return n, cmp.Or(wait, err)
}

// Write is that of the TCP connection. A short piece that has room costs the scheduler nothing.
func (c tcpConn) Write(p []byte) (int, error) {
	t := transfers.Get().(*transfer)
	t.p = p
	wait := c.raw.Write(t.write)
	n, err := t.done()
	return n, cmp.Or(wait, err)
}

// transfer is a Read or Write under way.
type transfer struct {
	read, write func(fd uintptr) bool // made once, so that a transfer allocates nothing

	from *reads
	p    []byte
	n    int
	err  error
}

// transfers are those that are not under way.
var transfers = sync.Pool{New: func() any {
	t := new(transfer)
	t.read, t.write = t.tryRead, t.tryWrite
	return t
}}

// done gives back a transfer, and how it has ended.
func (t *transfer) done() (n int, err error) {
	n, err = t.n, t.err
	t.from, t.p, t.n, t.err = nil, nil, 0, nil
	transfers.Put(t)
	return n, err
}

// tryRead is called when fd may be readable; false means that it was not.
func (t *transfer) tryRead(fd uintptr) bool {
	n, err := t.from.Read(int(fd), t.p)
	switch err {
	case nil:
		t.n = n
	case syscall.EAGAIN:
		return false
	default:
		t.err = os.NewSyscallError("read", err)
	}
	return true
}

// tryWrite is called when fd may be writable; false means that not all has been written.
func (t *transfer) tryWrite(fd uintptr) bool {
	for t.n < len(t.p) {
		n, err := nowait.Write(int(fd), t.p[t.n:])
		switch err {
		case nil:
			t.n += n
		case syscall.EAGAIN:
			return false
		default:
			t.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// linger has the kernel send after a close what has been written, or a reset instead. It fails if
// the socket is closed already, which all else says, too.
func (c tcpConn) linger(on bool) {
	set := setReset
	if on {
		set = setLinger
	}
	_ = c.raw.Control(set)
}

func setLinger(fd uintptr) { _ = nowait.SetLinger(int(fd), false) }

func setReset(fd uintptr) { _ = nowait.SetLinger(int(fd), true) }
