package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/adit-net/adit/tunnel/socks"
)

// Ports are the ports from First to Last. The zero Ports are none.
type Ports struct{ First, Last uint16 }

// ParsePorts reads "40000-40999", or one port. An empty string is the zero Ports.
func ParsePorts(s string) (Ports, error) {
	if s == "" {
		return Ports{}, nil
	}
	first, last, found := strings.Cut(s, "-")
	if !found {
		last = first
	}
	var p Ports
	for _, end := range []struct {
		text string
		port *uint16
	}{{first, &p.First}, {last, &p.Last}} {
		n, err := strconv.ParseUint(end.text, 10, 16)
		if err != nil || n == 0 {
			return Ports{}, fmt.Errorf("parse ports %q: %q is no number from 1 to 65535", s, end.text)
		}
		*end.port = uint16(n)
	}
	if p.Last < p.First {
		return Ports{}, fmt.Errorf("parse ports %q: the first one is above the last", s)
	}
	return p, nil
}

const (
	// maxPortTries is how many ports of a range are tried for one request.
	maxPortTries = 1024

	// systemTries is how many of those are tried that the system gives. One is enough
	// unless it is to be kept free.
	systemTries = 4

	// firstWish is the lowest port that an app may wish for where no range says more.
	firstWish = 1024
)

// candidates gives the ports to try, that which is wished for first if it may be had.
// 0 leaves it to the system. A range is gone through from anywhere in it, so that the next
// port cannot be foretold.
func (p Ports) candidates(wish uint16) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		if p == (Ports{}) {
			if wish >= firstWish && !yield(wish) {
				return
			}
			for range systemTries {
				if !yield(0) {
					return
				}
			}
			return
		}
		if p.First <= wish && wish <= p.Last && !yield(wish) {
			return
		}
		size := int(p.Last-p.First) + 1
		start := rand.IntN(size)
		for i := range min(size, maxPortTries) {
			if !yield(p.First + uint16((start+i)%size)) {
				return
			}
		}
	}
}

var errNoPortFree = &socks.Error{Code: socks.GeneralFailure, Err: errors.New("no port is free")}

// listen opens a port on all addresses of a network: peers may come by any of them.
// Ports of adit's own are left alone, whatever the address.
func (e *Exit) listen(ctx context.Context, network string, wish uint16) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: e.Steer.control}
	lc.SetMultipathTCP(false) // as towards targets
	last := error(errNoPortFree)
	for port := range e.Binds.Ports.candidates(wish) {
		if port != 0 && e.ownsPort(port) {
			continue
		}
		ln, err := lc.Listen(ctx, network, net.JoinHostPort("", strconv.Itoa(int(port))))
		switch {
		case err == nil && e.ownsPort(portOf(ln)):
			ln.Close()
		case err == nil:
			return ln.(*net.TCPListener), nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		default:
			last = &socks.Error{Code: socks.GeneralFailure, Err: err} // most often, another has it
		}
	}
	return nil, last
}

// ownsPort tells whether adit listens at a port, at whatever address.
func (e *Exit) ownsPort(port uint16) bool {
	return slices.ContainsFunc(e.Own, func(own netip.AddrPort) bool { return own.Port() == port })
}

func portOf(ln net.Listener) uint16 { return ln.Addr().(*net.TCPAddr).AddrPort().Port() }

// families are the families of addresses that peers may have, the one that the reply
// is to be of first.
type families []family

// family is 4 or 6.
type family int

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return 4
	}
	return 6
}

// familiesOf gives those of the peers. Where nobody knows who will come, they are
// both, and "::" says that the app understands IPv6 addresses.
func familiesOf(peers []netip.Addr, dst socks.Addr) families {
	if len(peers) == 0 {
		if dst.IP.Is6() && !dst.IP.Is4In6() {
			return families{6, 4}
		}
		return families{4, 6}
	}
	var f families
	for _, known := range []family{4, 6} {
		if slices.ContainsFunc(peers, func(a netip.Addr) bool { return familyOf(a) == known }) {
			f = append(f, known)
		}
	}
	return f
}

func (f families) network() string {
	switch {
	case len(f) > 1:
		return "tcp" // both, where the system has both
	case f[0] == 4:
		return "tcp4"
	}
	return "tcp6"
}

// face gives the address that peers reach this host by: the one that the
// configuration says, or else the host's own.
func (e *Exit) face(f families, peers []netip.Addr) (netip.Addr, error) {
	for _, family := range f {
		for _, a := range e.Binds.Advertise {
			if a = a.Unmap(); familyOf(a) == family {
				return a, nil
			}
		}
	}
	for _, family := range f {
		if a, ok := e.ownFace(family, peers); ok {
			return a, nil
		}
	}
	return netip.Addr{}, errFaceless
}

// Nobody has these addresses (RFC 5737, RFC 3849). The way to them is the way out.
var (
	anywhere4 = netip.MustParseAddr("192.0.2.1")
	anywhere6 = netip.MustParseAddr("2001:db8::1")
)

// ownFace gives the address from which this host would connect to the first peer of
// a family, or to anywhere. A host without a way out has addresses all the same.
func (e *Exit) ownFace(f family, peers []netip.Addr) (netip.Addr, bool) {
	towards := anywhere4
	if f == 6 {
		towards = anywhere6
	}
	if i := slices.IndexFunc(peers, func(a netip.Addr) bool { return familyOf(a) == f }); i >= 0 {
		towards = peers[i]
	}
	// To connect such a socket asks for the route, and sends nothing.
	d := net.Dialer{Control: e.Steer.control}
	c, err := d.Dial("udp", netip.AddrPortFrom(towards, 9).String())
	if err == nil {
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), true
	}
	addrs, err := hostAddrs()
	if err != nil {
		return netip.Addr{}, false
	}
	for _, k := range []kind{public, private, loopback} {
		for _, a := range addrs {
			if familyOf(a) == f && kindOf(a) == k {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}
