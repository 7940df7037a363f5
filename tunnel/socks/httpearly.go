package socks

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// earlyConn is a connection to a target that is asked for by the first Write, whose
// bytes travel with the request: with HTTP it is the client who speaks first. Read
// waits for it. Methods are safe for concurrent use, as far as the conn's are.
type earlyConn struct {
	connect func(first []byte) (relay.Conn, error)
	giveUp  context.CancelFunc // ends connect

	once  sync.Once
	ready chan struct{} // closed when the following are set
	conn  relay.Conn
	err   error // why there is none
}

func (c *earlyConn) Write(b []byte) (n int, err error) {
	c.once.Do(func() {
		n = min(len(b), MaxInitialData6)
		c.conn, c.err = c.connect(b[:n])
		close(c.ready)
	})
	if c.err != nil {
		return 0, c.err
	}
	if n == len(b) {
		return n, nil
	}
	more, err := c.conn.Write(b[n:])
	return n + more, err
}

func (c *earlyConn) Read(b []byte) (int, error) {
	<-c.ready
	if c.err != nil {
		return 0, c.err
	}
	return c.conn.Read(b)
}

// end makes sure that there will be no connection if there is none.
func (c *earlyConn) end() error {
	c.giveUp()
	c.once.Do(func() {
		c.err = net.ErrClosed
		close(c.ready)
	})
	return c.err
}

func (c *earlyConn) Close() error {
	if c.end() != nil {
		return nil
	}
	return c.conn.Close()
}

func (c *earlyConn) Reset() error {
	if c.end() != nil {
		return nil
	}
	return c.conn.Reset()
}

func (c *earlyConn) CloseWrite() error {
	if _, err := c.Write(nil); err != nil {
		return err
	}
	return c.conn.CloseWrite()
}

// LocalAddr is nothing that the app's end could tell.
func (c *earlyConn) LocalAddr() net.Addr { return Addr{} }

// RemoteAddr is nothing that the app's end could tell.
func (c *earlyConn) RemoteAddr() net.Addr { return Addr{} }

// The deadlines can be set once there is a connection.

func (c *earlyConn) SetDeadline(t time.Time) error {
	return c.after(func() error { return c.conn.SetDeadline(t) })
}

func (c *earlyConn) SetReadDeadline(t time.Time) error {
	return c.after(func() error { return c.conn.SetReadDeadline(t) })
}

func (c *earlyConn) SetWriteDeadline(t time.Time) error {
	return c.after(func() error { return c.conn.SetWriteDeadline(t) })
}

func (c *earlyConn) after(set func() error) error {
	<-c.ready
	if c.err != nil {
		return c.err
	}
	return set()
}
