package socks

import (
	"crypto/tls"
	"errors"
	"io"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// lastRecord is how long an app has to make room for the record that ends its
// connection.
const lastRecord = time.Second

var errTruncated = errors.New("the connection has ended without TLS saying so")

// tlsConn is an app's connection over TLS, whose ends are protected like all else.
type tlsConn struct {
	*tls.Conn
	below relay.Conn
}

func serveTLS(c relay.Conn, config *tls.Config) tlsConn {
	return tlsConn{tls.Server(truncated{c}, config), c}
}

// Close ends the outgoing direction first: without that the app would have to take the
// end for somebody else's doing.
func (c tlsConn) Close() error {
	_ = c.SetWriteDeadline(time.Now().Add(lastRecord)) // fails if it is closed
	_ = c.CloseWrite()                                 // fails if it has ended, or was never begun
	return c.below.Close()
}

// Reset leaves the end out, so that the app takes nothing for complete.
func (c tlsConn) Reset() error { return c.below.Reset() }

// truncated takes the end of a connection for an error, which a clean end over TLS
// comes before. Package tls itself lets it pass between two records.
type truncated struct{ relay.Conn }

func (c truncated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		err = errTruncated
	}
	return n, err
}
