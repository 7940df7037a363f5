package server

import (
	"errors"
	"syscall"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// watchedConn is a connection to a target that counts what passes, and tells its
// flow when it ends and why.
type watchedConn struct {
	relay.Conn
	flow *flow
	ear  *listener // nil: nobody wants to know what is spoken
}

var errCutOff = errors.New("connection reset")

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.DidRead(b[:n])
	return n, err
}

// DidRead takes note of what was read without Read.
func (c *watchedConn) DidRead(b []byte) {
	n := int64(len(b))
	if n > 0 && c.flow.came(n) == n {
		c.flow.first.CompareAndSwap(0, int64(time.Since(c.flow.began)))
	}
	if c.listens() {
		c.ear.heard(b)
	}
}

// DidWrite takes note of what was written without Write.
func (c *watchedConn) DidWrite(b []byte) {
	c.flow.went(int64(len(b)))
	if c.listens() {
		c.ear.overhear(b)
	}
}

// WillNote tells that nothing of what the app says may have to be kept from the target.
func (c *watchedConn) WillNote() bool { return !c.listens() || !c.flow.minds.Load() }

// listens tells whether it is not known yet what is spoken.
func (c *watchedConn) listens() bool { return c.ear != nil && !c.ear.done.Load() }

func (c *watchedConn) Write(b []byte) (n int, err error) {
	if c.listens() {
		n, err = c.ear.said(b)
	} else {
		n, err = c.Conn.Write(b)
	}
	c.flow.went(int64(n))
	return n, err
}

// CloseWrite tells the target that the app says no more.
func (c *watchedConn) CloseWrite() error {
	if c.listens() {
		c.ear.finish()
	}
	return c.Conn.CloseWrite()
}

// SyscallConn gives the socket, to whoever tells DidRead.
func (c *watchedConn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn()
}

// Close ends the flow. Whoever closes before both directions have ended has
// what came of it.
func (c *watchedConn) Close() error {
	err := c.Conn.Close()
	c.over(nil)
	return err
}

// Reset breaks the connection and ends the flow.
func (c *watchedConn) Reset() error {
	err := c.Conn.Reset()
	c.over(errCutOff)
	return err
}

// Fail is Reset for a reason.
func (c *watchedConn) Fail(reason error) {
	relay.Fail(c.Conn, reason)
	c.over(reason)
}

func (c *watchedConn) over(reason error) {
	if c.ear != nil {
		c.ear.stop()
	}
	c.flow.end(reason, socks.Succeeded)
}
