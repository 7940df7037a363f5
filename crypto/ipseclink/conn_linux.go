package ipseclink

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/nowait"
)

// Where it is known that more follows, who reads is woken for so many bytes at a time, at most, and
// if it is worth two system calls. Most records of TLS have the same size.
const (
	wakeMost  = 16 << 10
	wakeLeast = 4 << 10
)

type socketReader = nowait.Reader

// pollable gives access to a TCP connection's socket.
func pollable(c net.Conn) syscall.RawConn { return nowait.Socket(c) }

// tryRead reads what there is. It returns false if there is nothing yet: the poller then
// calls it again when there is.
func (c *conn) tryRead(fd uintptr) bool {
	n, err := c.reader.Read(int(fd), c.dst)
	for err == syscall.EAGAIN && c.adjust(int(fd)) { // what came before may be too little for the old mark, and enough for this
		n, err = c.reader.Read(int(fd), c.dst)
	}
	switch {
	case err == syscall.EAGAIN:
		return false
	case err != nil:
		c.readErr = c.failed("read", err)
	case n == 0:
		c.readErr = io.EOF
	}
	c.got = max(n, 0)
	return true
}

// adjust sets how many bytes have to be there before a wait ends, and tells whether that was
// another number. The connection's end is always heard of.
func (c *conn) adjust(fd int) (changed bool) {
	mark := min(c.expected, wakeMost)
	if mark < wakeLeast {
		mark = 1
	}
	if mark == c.lowWater || unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, mark) != nil {
		return false
	}
	c.lowWater = mark
	return true
}

// tryWrite writes what the kernel takes. It never has the poller call it again.
func (c *conn) tryWrite(fd uintptr) bool {
	for len(c.src) > 0 {
		n, err := nowait.Write(int(fd), c.src)
		if err == syscall.EAGAIN {
			break
		}
		if err != nil {
			c.writeErr = c.failed("write", err)
			break
		}
		c.src = c.src[n:]
	}
	return true
}
