package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// dial connects to one address that has been judged, and has the very address
// judged again that the socket is about to connect to.
func (e *Exit) dial(ctx context.Context, r socks.Request, target netip.AddrPort, w wishes) (relay.Conn, error) {
	if isPlain(target, w) {
		return e.dialPlain(ctx, r, target)
	}
	text := target.String()
	d := net.Dialer{
		Timeout:         e.timeout(),
		KeepAliveConfig: keepAlive, // TCP_NODELAY is Go's default
		Control: func(_, address string, raw syscall.RawConn) error {
			if address != text {
				return &socks.Error{Code: socks.NotAllowed, Err: fmt.Errorf("the socket is for %s, not %s", address, text)}
			}
			w.apply(raw, target.Addr().Is4())
			if err := e.permits(r, target); err != nil {
				return err
			}
			return e.Steer.control("", address, raw)
		},
	}
	d.SetMultipathTCP(w.multipath())
	// Not DialTCP: it binds the socket first, and then one port serves one
	// connection in the whole world and not one for each target.
	conn, err := d.DialContext(ctx, networkOf(target), text)
	if err != nil {
		return nil, err
	}
	return relay.TCP(conn.(*net.TCPConn)), nil
}

// networkOf is what package net calls the network of an address.
func networkOf(target netip.AddrPort) string {
	if target.Addr().Is4() {
		return "tcp4"
	}
	return "tcp6"
}
