package socks

import (
	"context"
	"net"
)

// ServeConn serves one app whose connection has not come by way of Serve. Whoever calls
// knows who the app is, and lets it in: [Door.Admission] is not asked. It returns when
// the connection has ended, which it has soon after ctx. The connection is a relay.Conn
// or one of package net.
func (d *Door) ServeConn(ctx context.Context, conn net.Conn) {
	s := d.serving()
	s.Admission = Admission{vouched: true}
	s.serve(ctx, conn)
	s.apps.Wait()
}
