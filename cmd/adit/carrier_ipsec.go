package main

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/ipsec"
	"github.com/adit-net/adit/crypto/ipseclink"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/tunnel"
)

// ipsecCarrier makes a [client.Carrier] of a connection in a path that IPsec protects.
type ipsecCarrier struct{ *ipseclink.Carrier }

func (c ipsecCarrier) Place() tunnel.Place {
	return tunnel.Place{Server: c.Server(), Carrier: c.Channel()}
}

func (c ipsecCarrier) Protection() tunnel.Protection { return ipsecProtection() }

// ipsecProtection is that of carriers over IPsec. What protects them is below.
func ipsecProtection() tunnel.Protection {
	return tunnel.Protection{Carrier: overIPsec, Version: "plain TCP"}
}

// dialIPsec gives the dialer for carriers over IPsec. The config is valid.
func dialIPsec(cfg remoteConfig, paths *ipsec.Paths, where *ipsecPlace) (client.Dialer, error) {
	pin, err := keys.ParsePin(cmp.Or(cfg.IPsecPin, cfg.Pin))
	if err != nil {
		return nil, err
	}
	base := ipseclink.Dialer{
		Pin:     pin,
		Control: cfg.steer(paths.Detector.Control),
		Watch: func(ctx context.Context, local, remote netip.AddrPort, lost func()) (stop func()) {
			return watchPath(ctx, paths, cfg.path(local, remote), lost)
		},
		Datagrams: func(ctx context.Context, local, remote netip.AddrPort, c syscall.RawConn) (ipseclink.Passage, error) {
			return besidePath(ctx, paths, cfg.path(local, remote), c, cfg.steer(nil))
		},
		Tune: tlslink.Tune,
	}
	return func(ctx context.Context) (client.Carrier, error) {
		d := base
		var err error
		if d.Address, err = where.address(); err != nil {
			return nil, err
		}
		c, err := d.Dial(ctx)
		if err != nil {
			return nil, err
		}
		return ipsecCarrier{c}, nil
	}, nil
}

// path is that of a carrier's packets.
func (c remoteConfig) path(local, remote netip.AddrPort) ipsec.Path {
	return ipsec.Path{Local: local, Remote: remote, Mark: c.Mark}
}

// watchPath calls lost when a path is not protected any more.
func watchPath(ctx context.Context, paths *ipsec.Paths, path ipsec.Path, lost func()) (stop func()) {
	f := paths.Follow(ctx, path, func(now ipsec.Protection) {
		if !now.Protected() {
			lost()
		}
	})
	if !f.Protection().Protected() {
		lost()
	}
	return f.Stop
}

// passage is the path of datagrams that go beside a carrier.
type passage struct{ *ipsec.Followed }

// ethernet is how large packets may be where nothing is known of them.
const ethernet = 1500

func (p passage) MTU() int {
	now := p.Protection()
	if !now.Protected() {
		return 0
	}
	return cmp.Or(now.MTU, ethernet)
}

// besidePath has a socket send datagrams by the same way as a carrier's bytes, which may be
// protected for those alone. steer, if there is any, comes first.
func besidePath(ctx context.Context, paths *ipsec.Paths, path ipsec.Path, c syscall.RawConn, steer control) (ipseclink.Passage, error) {
	if steer != nil {
		if err := steer(ctx, "udp", path.Remote.String(), c); err != nil {
			return nil, err
		}
	}
	path.UDP = true
	f, err := paths.Tie(ctx, path, c)
	if err != nil {
		return nil, err
	}
	return passage{f}, nil
}

// watchesPaths tells whether a client has to know at once when a path is not protected any
// more.
func (c remoteConfig) watchesPaths() bool { return slices.Contains(c.Carriers, overIPsec) }

// serveIPsec takes carriers over IPsec until ctx ends.
func (p *serverProcess) serveIPsec(ctx context.Context, ln net.Listener) error {
	s := ipseclink.Server{
		Key: p.key,
		Datagrams: func(ctx context.Context, local, remote netip.AddrPort, c syscall.RawConn) (ipseclink.Passage, error) {
			return besidePath(ctx, p.paths, ipsec.Path{Local: local, Remote: remote}, c, nil)
		},
		Tune: tlslink.Tune,
		Log:  p.log.Logger,
	}
	return s.Serve(ctx, p.guard(ln), func(ctx context.Context, a ipseclink.Arrival) ([]byte, func(context.Context, net.Conn)) {
		return p.Admit(ctx, tunnel.Arrival{
			Opening:    a.Opening,
			Place:      tunnel.Place{Server: a.Server, Carrier: a.Channel},
			Local:      a.Local,
			Remote:     a.Remote,
			Protection: ipsecProtection(),
		})
	})
}
