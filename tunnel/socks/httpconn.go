package socks

import (
	"bufio"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// httpConn is an app's connection while an HTTP server has it.
type httpConn struct {
	relay.Conn
	in       *bufio.Reader   // of Conn
	timeout  time.Duration   // of handshakes
	admitted atomic.Bool     // a request was a guest's
	upgraded atomic.Bool     // the server has nothing to do with it any more
	broken   atomic.Bool     // an end came too early
	stopped  <-chan struct{} // closed when the door resets its connections
}

func (c *httpConn) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	if err != nil && c.upgraded.Load() && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.broken.Store(true) // a time-out is how the server stops reading when it is left
	}
	return n, err
}

// admit lifts the limits that strangers have.
func (c *httpConn) admit() {
	c.admitted.Store(true)
	c.SetReadDeadline(time.Time{})
}

// SetReadDeadline gives a stranger no more than the time of a handshake, for
// the body of a request and for the next request too.
func (c *httpConn) SetReadDeadline(t time.Time) error {
	if !c.admitted.Load() {
		if limit := time.Now().Add(c.timeout); t.IsZero() || t.After(limit) {
			t = limit
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// Write gives a stranger little time to take what it is told. A guest may read
// as slowly as it likes.
func (c *httpConn) Write(b []byte) (int, error) {
	var deadline time.Time
	if !c.admitted.Load() {
		deadline = time.Now().Add(answerTimeout)
	}
	c.SetWriteDeadline(deadline)
	return c.Conn.Write(b)
}

// lies tells whether a clean end would be a lie.
func (c *httpConn) lies() bool {
	select {
	case <-c.stopped:
		return true
	default:
		return c.broken.Load()
	}
}

// Close resets a connection whose end came too early: HTTP has responses that
// nothing but a clean end tells complete.
func (c *httpConn) Close() error {
	if c.lies() {
		return c.Reset()
	}
	return c.Conn.Close()
}
