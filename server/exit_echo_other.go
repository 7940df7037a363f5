//go:build !linux

package server

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
)

// openEcho opens a socket without privileges if the system lets us, else with. It
// also gives the ID that echoes have there.
func (s Steer) openEcho(ctx context.Context, target netip.Addr) (echoConn, int, error) {
	network, any := "udp4", "0.0.0.0"
	if target.Is6() {
		network, any = "udp6", "::"
	}
	if conn, err := icmp.ListenPacket(network, any); err == nil {
		return pingConn{conn, &net.UDPAddr{IP: target.AsSlice()}}, int(rand.Uint32() & 0xffff), nil
	}
	return s.dialRawEcho(ctx, target)
}

// pingConn is a socket for ICMP messages to one target.
type pingConn struct {
	*icmp.PacketConn
	to *net.UDPAddr
}

func (c pingConn) Write(b []byte) (int, error) { return c.WriteTo(b, c.to) }
