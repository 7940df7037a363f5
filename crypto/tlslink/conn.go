package tlslink

import (
	"errors"
	"net"
	"sync"
	"time"
)

// closeTimeout bounds how long Close tries to tell the peer.
const closeTimeout = 250 * time.Millisecond

// conn is an open carrier: TLS over a quickened wire. All methods are safe for
// concurrent use.
//
// A Write that fails with a time-out has taken the n bytes that it reports.
// Those not sent yet go first with the next Write, so the stream stays whole.
// crypto/tls alone would fail for good.
type conn struct {
	net.Conn // TLS
	wire     *wire

	reading sync.Mutex
	broken  error // Read's, once it has given all that came before

	writing sync.Mutex
}

// newConn makes a carrier of a TLS connection whose handshake is done and which nobody
// uses at the moment.
func newConn(tls net.Conn, w *wire) net.Conn {
	w.quicken()
	c := &conn{Conn: tls, wire: w}
	if w.poll != nil {
		return eagerConn{c}
	}
	return c
}

// NetConn gives the connection below, for its socket's sake alone.
func (c *conn) NetConn() net.Conn { return c.wire.Conn }

// Read gives the next bytes. TLS gives a record's at a time; of those that have been read ahead
// whole, Read gives as many as fit.
func (c *conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.broken != nil {
		return 0, c.broken
	}
	n, err := c.Conn.Read(p)
	for n > 0 && n < len(p) && err == nil && c.wire.in != nil {
		var more int
		c.wire.hasty = true
		more, err = c.Conn.Read(p[n:])
		c.wire.hasty = false
		n += more
	}
	if n > 0 {
		c.wire.barren.Store(0)
		if !isTimeout(err) {
			c.broken = err // TLS does not give each error again
		}
		return n, nil
	}
	return n, err
}

// Write turns up to 64 KiB at a time into TLS records, and each such burst into
// one system call.
func (c *conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for len(p) > 0 && err == nil {
		var m int
		m, err = c.writeBurst(p[:min(len(p), burst)])
		n, p = n+m, p[m:]
	}
	return n, err
}

func (c *conn) writeBurst(p []byte) (int, error) {
	if err := c.wire.cork(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if flushed := c.wire.uncork(); err == nil {
		err = flushed
	}
	return n, err
}

// eagerConn is a conn that can be written to without waiting.
type eagerConn struct{ *conn }

// WriteNow is Write without waiting, of 64 KiB at most. It tells whether something is left that the
// kernel did not take; Flush has to be called then.
func (c eagerConn) WriteNow(p, more []byte) (left bool, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.wire.cork(); err != nil {
		return false, err
	}
	if _, err = c.Conn.Write(p); err == nil && len(more) > 0 {
		_, err = c.Conn.Write(more)
	}
	left, flushed := c.wire.uncorkNow()
	if err == nil {
		err = flushed
	}
	return left, err
}

// Flush waits until nothing is left.
func (c eagerConn) Flush() error { return c.wire.uncork() }

// Close tells the peer by a close_notify alert if that takes no longer than
// 250 ms, and closes the connection. Whoever is stuck in Read or Write comes
// free. Closing again does nothing.
func (c *conn) Close() error {
	err := c.close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (c *conn) close() error {
	if !c.writing.TryLock() {
		return c.wire.Close() // the alert would wait behind a Write
	}
	defer c.writing.Unlock()
	cut := time.AfterFunc(closeTimeout, func() { _ = c.wire.Close() })
	defer cut.Stop()
	return c.Conn.Close()
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
