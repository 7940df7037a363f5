// Package relay copies bytes between two connections until both directions
// have ended, and carries over how each of them ended: a clean end becomes a
// clean end, a reset becomes a reset, and nothing turns into the other.
package relay

import "net"

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

// TCP offers a TCP connection as a [Conn].
func TCP(c *net.TCPConn) Conn { return tcpConn{c} }

type tcpConn struct{ *net.TCPConn }

// Reset makes the kernel send RST: a close with a linger time of zero.
func (c tcpConn) Reset() error {
	// The error says that the socket is closed already, and so does Close.
	_ = c.SetLinger(0)
	return c.Close()
}

// watched is a conn that is told what was read from its socket past its Read.
type watched interface {
	Conn
	DidRead(n int)
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
