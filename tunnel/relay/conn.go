// Package relay copies bytes between two connections until both directions
// have ended, and carries over how each of them ended: a clean end becomes a
// clean end, a reset becomes a reset, and nothing turns into the other.
package relay

import (
	"net"
	"syscall"
)

// Conn is a reliable two-way byte channel whose directions end one by one, as
// those of TCP do. All methods are safe for concurrent use, and Read and Write
// return soon after Close or Reset.
type Conn interface {
	net.Conn

	// CloseWrite ends the outgoing direction: the peer reads io.EOF after the
	// last byte. The incoming direction goes on.
	CloseWrite() error

	// Reset ends both directions at once. The peer's Read and Write fail; they
	// never see io.EOF. Reset after Close does nothing.
	Reset() error
}

// TCP offers a TCP connection as a [Conn]. If the process dies before Close, the
// peer sees a reset: the kernel closes what is left open, and has a linger time of
// zero for it.
func TCP(c *net.TCPConn) Conn {
	raw, _ := c.SyscallConn() // it fails only if there is no connection
	t := tcpConn{c, raw, new(reads)}
	t.linger(false)
	return t
}

type tcpConn struct {
	*net.TCPConn
	raw  syscall.RawConn
	from *reads
}

// SyscallConn is that of the TCP connection.
func (c tcpConn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Close lets the kernel send what has been written.
func (c tcpConn) Close() error {
	c.linger(true)
	return c.TCPConn.Close()
}

// Reset makes the kernel send RST: a close with a linger time of zero.
func (c tcpConn) Reset() error {
	// Close may have been called already, and the socket still be in use.
	c.linger(false)
	return c.TCPConn.Close()
}

// watched is a conn that is told what was read from its socket past its Read, and written past
// its Write. It keeps nothing of b.
type watched interface {
	Conn
	DidRead(b []byte)
	DidWrite(b []byte)

	// WillNote tells whether it needs no more than that of what is written.
	WillNote() bool
}

// Fail resets a conn for a reason, which a conn that has a method Fail learns.
func Fail(c Conn, reason error) {
	if f, ok := c.(interface{ Fail(reason error) }); ok {
		f.Fail(reason)
		return
	}
	// It fails if the conn is closed already.
	_ = c.Reset()
}
