//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// stepTimeout bounds what a measurement takes beyond its window.
const stepTimeout = 15 * time.Second

// endpoint is a way to targets: a SOCKS 5 door, or none at all.
type endpoint struct {
	contender
	door           string // empty: directly
	client, server []*process
}

// dial opens a connection to a target. It fails for good at the deadline of ctx.
func (e endpoint) dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	if e.door == "" {
		return dialTCP(ctx, to.String())
	}
	c, _, err := e.request(ctx, socksConnect, to)
	return c, err
}

func dialTCP(ctx context.Context, address string) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	if deadline, set := ctx.Deadline(); set {
		_ = c.SetDeadline(deadline)
	}
	return c.(*net.TCPConn), nil
}

// session is dial and a byte that comes back from an echoing target.
func (e endpoint) session(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	c, err := e.dial(ctx, to)
	if err != nil {
		return nil, err
	}
	if err := ping(c, make([]byte, 1)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// ping sends buf, and reads as much into it.
func ping(c net.Conn, buf []byte) error {
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

// Commands of SOCKS 5 (RFC 1928, section 4).
const (
	socksConnect   = 1
	socksAssociate = 3
)

// request is a request of SOCKS 5 that must succeed; bound is what the reply says.
func (e endpoint) request(ctx context.Context, cmd byte, to netip.AddrPort) (_ *net.TCPConn, bound netip.AddrPort, err error) {
	c, err := dialTCP(ctx, e.door)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	defer func() {
		if err != nil {
			c.Close()
			err = fmt.Errorf("request a session: %w", err)
		}
	}()
	var buf [10]byte
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return nil, netip.AddrPort{}, err
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return nil, netip.AddrPort{}, err
	}
	if buf[0] != 5 || buf[1] != 0 {
		return nil, netip.AddrPort{}, fmt.Errorf("the door wants method %d", buf[1])
	}
	if _, err := c.Write(appendAddress([]byte{5, cmd, 0}, to)); err != nil {
		return nil, netip.AddrPort{}, err
	}
	if _, err := io.ReadFull(c, buf[:]); err != nil {
		return nil, netip.AddrPort{}, err
	}
	if buf[1] != 0 || buf[3] != 1 {
		return nil, netip.AddrPort{}, fmt.Errorf("the door refuses with code %d", buf[1])
	}
	return c, parseAddress(buf[4:]), nil
}

// appendAddress appends an IPv4 address with its type, and a port.
func appendAddress(b []byte, a netip.AddrPort) []byte {
	ip, port := a.Addr().As4(), a.Port()
	return append(append(append(b, 1), ip[:]...), byte(port>>8), byte(port))
}

// parseAddress reads an IPv4 address and a port from six bytes.
func parseAddress(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(b[4])<<8|uint16(b[5]))
}

// datagrams is a way for datagrams to one target.
type datagrams struct {
	*net.UDPConn
	header  []byte // of every datagram
	control io.Closer
}

// associate opens a way for datagrams to a target.
func (e endpoint) associate(ctx context.Context, to netip.AddrPort) (*datagrams, error) {
	d := &datagrams{}
	relay := to
	if e.door != "" {
		control, bound, err := e.request(ctx, socksAssociate, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
		if err != nil {
			return nil, err
		}
		if relay = bound; bound.Addr().IsUnspecified() {
			relay = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), bound.Port())
		}
		d.control, d.header = control, appendAddress(make([]byte, 3), to)
	}
	var err error
	if d.UDPConn, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(relay)); err != nil {
		d.closeControl()
		return nil, err
	}
	return d, nil
}

func (d *datagrams) Close() error {
	d.closeControl()
	return d.UDPConn.Close()
}

func (d *datagrams) closeControl() {
	if d.control != nil {
		d.control.Close()
	}
}
