package ipseclink

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

// Dialer opens carriers to one server. It is safe for concurrent use while its fields
// stay as they are. All but Tune and Datagrams are needed.
type Dialer struct {
	Address string // host:port
	Pin     keys.Pin

	// Control is called before a connection is begun, as [net.Dialer].ControlContext. It
	// fails unless the path to the address is protected, and sees to it that the socket
	// sends nothing by any other.
	Control func(ctx context.Context, network, address string, c syscall.RawConn) error

	// Watch begins to watch a path, and calls lost when it is protected no more, perhaps
	// at once, until stop is called.
	Watch func(ctx context.Context, local, remote netip.AddrPort, lost func()) (stop func())

	// Datagrams has datagrams go beside a carrier, by the same path. nil: they go among
	// its bytes.
	Datagrams Protect

	Tune func(net.Conn) // sets up a TCP connection; nil: it stays as it is
}

// Dial connects. When it returns, the server has proved who it is.
func (d *Dialer) Dial(ctx context.Context) (*Carrier, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dialer := net.Dialer{ControlContext: d.Control}
	dialer.SetMultipathTCP(false) // the other paths would not be protected
	conn, err := dialer.DialContext(ctx, "tcp", d.Address)
	if err != nil {
		return nil, fmt.Errorf("dial %s over IPsec: %w", d.Address, err)
	}
	if d.Tune != nil {
		d.Tune(conn)
	}
	c := &Carrier{conn: conn, server: d.Pin, datagrams: d.Datagrams}
	release := interrupt(ctx, conn)
	c.nonces, c.private, err = meet(conn, d.Pin)
	if release(); ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close() // nobody has used it
		return nil, fmt.Errorf("dial %s over IPsec: %w", d.Address, err)
	}
	// What it is given may end it at once.
	c.stop = d.Watch(context.WithoutCancel(ctx), addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr()), func() { _ = conn.Close() })
	return c, nil
}

// meet has the server prove who it is. The client's nonce is the public part of a key.
func meet(conn net.Conn, pin keys.Pin) (n nonces, private *ecdh.PrivateKey, err error) {
	call := make([]byte, callSize)
	copy(call, magic)
	if private, n.client, err = newNonce(); err != nil {
		return n, nil, err
	}
	copy(call[len(magic):], n.client[:])
	if _, err := conn.Write(call); err != nil {
		return n, nil, err
	}
	b := make([]byte, showSize)
	if _, err := io.ReadFull(conn, b); err != nil {
		return n, nil, fmt.Errorf("read what the server shows: %w", err)
	}
	n, err = check(b, n.client, pin)
	return n, private, err
}

// Carrier is a connection to a server that has proved who it is. It becomes a session's
// carrier by [Carrier.Attach].
type Carrier struct {
	conn   net.Conn
	server keys.Pin
	nonces nonces
	stop   func() // watching the path

	private   *ecdh.PrivateKey // of the client's nonce
	datagrams Protect
}

// Server gives the hash of the server's key.
func (c *Carrier) Server() [32]byte { return c.server }

// Channel gives a value that this connection alone has.
func (c *Carrier) Channel() [32]byte { return c.nonces.under(carrierLabel) }

// Close closes the carrier. Closing what Attach has given does the same.
func (c *Carrier) Close() error {
	c.stop()
	return c.conn.Close()
}

// Attach sends an opening of [OpeningSize] bytes and reads the server's answer of
// [AnswerSize] bytes. It is called once. On an error the carrier is closed.
//
// Methods of conn are those of a TCP connection, which is closed when the path is not
// protected any more. It is a [DatagramConn] if datagrams may get through beside it.
func (c *Carrier) Attach(ctx context.Context, opening []byte) (conn net.Conn, answer []byte, err error) {
	if answer, err = c.attach(ctx, opening); err != nil {
		_ = c.Close() // the first error says more
		return nil, nil, fmt.Errorf("attach: %w", err)
	}
	quick := quicken(c.conn, c.stop)
	if beside := c.accompany(ctx); beside != nil {
		return accompanied{quick, beside}, answer, nil
	}
	return quick, answer, nil
}

// accompany gives what takes datagrams beside the connection; nil if there is nothing.
func (c *Carrier) accompany(ctx context.Context) *companion {
	if c.datagrams == nil {
		return nil
	}
	a, err := agree(c.nonces, c.private, c.nonces.server)
	if err != nil {
		return nil
	}
	// Whoever watches the path does so for as long as the connection lasts.
	beside, err := accompany(context.WithoutCancel(ctx), c.conn, c.datagrams, a.toServer, a.toClient)
	if err != nil {
		return nil // there are other ways for them
	}
	beside.heard.Store(true)
	return beside
}

func (c *Carrier) attach(ctx context.Context, opening []byte) ([]byte, error) {
	if len(opening) != OpeningSize {
		return nil, fmt.Errorf("the opening has %d bytes, want %d", len(opening), OpeningSize)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	release := interrupt(ctx, c.conn)
	answer := make([]byte, AnswerSize)
	_, err := c.conn.Write(opening)
	if err == nil {
		_, err = io.ReadFull(c.conn, answer)
	}
	if release(); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the server does not take this device's opening")
	}
	if err != nil {
		return nil, err
	}
	return answer, c.conn.SetDeadline(time.Time{})
}

// interrupt makes Read and Write fail from when ctx ends until release is called, which
// waits.
func interrupt(ctx context.Context, c net.Conn) (release func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.SetDeadline(time.Unix(1, 0)) // an error means that it is closed
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := tcp.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
