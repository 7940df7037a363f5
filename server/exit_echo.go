package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/adit-net/adit/tunnel/socks"
)

const (
	maxEchoes   = 256              // under way at once, of which a user has a share
	echoTimeout = 10 * time.Second // if ctx has more patience
)

var errEchoes = &socks.Error{Code: socks.GeneralFailure, Err: errors.New("too many echoes are under way")}

// Echo sends, in the name of a request's user, an ICMP echo request (RFC 792, RFC 4443) with a payload of up to
// 65,507 bytes to a target that is allowed, and returns nil when the reply comes.
// Else the error's code says what is known of the target: TimedOut if nothing is.
// It fails where the system lets adit have no ICMP socket.
func (e *Exit) Echo(ctx context.Context, r socks.Request, target netip.Addr, payload []byte) error {
	target = target.Unmap()
	at := netip.AddrPortFrom(target, 0)
	if err := e.judge(at); err != nil {
		return err
	}
	if err := r.Permits("", at); err != nil {
		return err
	}
	if !e.echoes.take(r.User, maxEchoes) {
		return errEchoes
	}
	defer e.echoes.give(r.User)
	if len(payload) > maxDatagram {
		return &socks.Error{Code: socks.GeneralFailure, Err: fmt.Errorf("the echo has %d bytes", len(payload))}
	}
	ctx, cancel := context.WithTimeout(ctx, echoTimeout)
	defer cancel()
	conn, id, err := e.Steer.openEcho(ctx, target)
	if err != nil {
		return fmt.Errorf("open ICMP socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	echo := &icmp.Echo{ID: id, Seq: int(rand.Uint32() & 0xffff), Data: payload}
	if err := exchangeEcho(conn, target, echo); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("send echo: %w", err)
	}
	return nil
}

// echoConn is a socket for ICMP messages to and from one target. Where the system
// tells that the target is unreachable, it is an error of ReadFrom.
type echoConn interface {
	Write(b []byte) (int, error)
	ReadFrom(b []byte) (int, net.Addr, error)
	SetDeadline(t time.Time) error
	Close() error
}

// exchangeEcho sends a request and waits for its reply.
func exchangeEcho(conn echoConn, target netip.Addr, echo *icmp.Echo) error {
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if target.Is6() {
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	message, err := (&icmp.Message{Type: request, Body: echo}).Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(message); err != nil {
		return err
	}
	b := make([]byte, len(message)+60) // with the header of IPv4
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return err
		}
		if addrOf(from) != target {
			continue
		}
		m, err := icmp.ParseMessage(request.Protocol(), b[:n])
		if err != nil || m.Type != reply {
			continue // a raw socket hears all kinds of things
		}
		if got, ok := m.Body.(*icmp.Echo); ok && got.ID == echo.ID && got.Seq == echo.Seq && bytes.Equal(got.Data, echo.Data) {
			return nil
		}
	}
}

// addrOf gives the IP address in one of package net's addresses.
func addrOf(a net.Addr) netip.Addr {
	var ip net.IP
	switch a := a.(type) {
	case *net.UDPAddr:
		ip = a.IP
	case *net.IPAddr:
		ip = a.IP
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// dialRawEcho opens a socket that takes privileges.
func (s Steer) dialRawEcho(ctx context.Context, target netip.Addr) (*net.IPConn, int, error) {
	network := "ip4:icmp"
	if target.Is6() {
		network = "ip6:ipv6-icmp"
	}
	d := net.Dialer{Control: s.control}
	conn, err := d.DialContext(ctx, network, target.String())
	if err != nil {
		return nil, 0, err
	}
	return conn.(*net.IPConn), int(rand.Uint32() & 0xffff), nil
}
