package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/ipsec"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/wglink"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/resume"
)

// wireGuardCarrier makes a [client.Carrier] of a connection inside WireGuard.
type wireGuardCarrier struct{ *wglink.Carrier }

func (c wireGuardCarrier) Place() tunnel.Place {
	return tunnel.Place{Server: c.Server(), Carrier: c.Channel()}
}

func (c wireGuardCarrier) Protection() tunnel.Protection {
	return wireGuardProtection(c.Carrier.Protection())
}

func (c wireGuardCarrier) Attach(ctx context.Context, opening []byte) (net.Conn, []byte, error) {
	conn, answer, err := c.Carrier.Attach(ctx, opening)
	if err != nil {
		return nil, nil, err
	}
	return inside{conn}, answer, nil
}

// inside is a connection whose addresses the network outside does not know. Sessions
// find that it takes datagrams.
type inside struct{ wglink.DatagramConn }

var _ resume.DatagramConn = inside{}

// Inside tells the client so.
func (inside) Inside() bool { return true }

func wireGuardProtection(p wglink.Protection) tunnel.Protection {
	return tunnel.Protection{Carrier: overWireGuard, Version: p.Version, Cipher: p.Cipher, KeyExchange: p.KeyExchange}
}

// newWireGuardDialer makes the dialer for carriers over WireGuard. The config is
// valid, and says where. dir is the client's.
func newWireGuardDialer(cfg remoteConfig, paths *ipsec.Paths, device *keys.Device, dir string) (*wglink.Dialer, error) {
	key, err := keys.ParseWireGuardPublic(cfg.WireGuardKey)
	if err != nil {
		return nil, err
	}
	answered := clockFile(filepath.Join(dir, wireGuardClockFile))
	d := &wglink.Dialer{
		Endpoint:  cfg.WireGuardAddress,
		ServerKey: key,
		Control:   cfg.steer(nil),
		Key:       device.WireGuard(),
		Answered:  answered.read(),
		Note:      answered.write,
		PathMTU: func(ctx context.Context, to netip.AddrPort) int {
			path := cfg.path(netip.AddrPort{}, to)
			path.UDP = true
			return paths.Look(ctx, path).MTU
		},
	}
	if cfg.RequireIPsec {
		d.Guard = paths.Detector.Tie
	}
	return d, nil
}

// dialWireGuard gives what dials by one.
func dialWireGuard(d *wglink.Dialer) client.Dialer {
	return func(ctx context.Context) (client.Carrier, error) {
		c, err := d.Dial(ctx)
		if err != nil {
			return nil, err
		}
		return wireGuardCarrier{c}, nil
	}
}

// clockFile is a file that remembers a time. All it is good for is to explain
// why a server does not answer, so nothing is said if it cannot be read or written.
type clockFile string

func (f clockFile) read() time.Time {
	text, err := os.ReadFile(string(f))
	if err != nil {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Time{}
	}
	return at
}

func (f clockFile) write(at time.Time) {
	_ = os.WriteFile(string(f), []byte(at.UTC().Format(time.RFC3339)+"\n"), 0o600)
}

// dialCarriers gives the dialers for a server, the one to prefer first, and who knows where it is
// by WireGuard; nil if that is not used. dir is the client's.
func dialCarriers(cfg remoteConfig, paths *ipsec.Paths, device *keys.Device, where *ipsecPlace, dir string) (all []client.Dialer, wireGuard *wglink.Dialer, err error) {
	for _, kind := range cfg.Carriers {
		var dial client.Dialer
		switch {
		case kind == overTLS:
			dial, err = dialServer(cfg, paths.Detector)
		case kind == overIPsec:
			dial, err = dialIPsec(cfg, paths, where)
		case cfg.WireGuardKey != "":
			wireGuard, err = newWireGuardDialer(cfg, paths, device, dir)
			dial = dialWireGuard(wireGuard)
		default:
			continue // the server takes none
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, dial)
	}
	return all, wireGuard, nil
}

// admitWireGuard judges what arrives inside WireGuard. Devices move, and what protects the path
// below is that to where they are.
func (p *serverProcess) admitWireGuard(ctx context.Context, a wglink.Arrival) ([]byte, func(context.Context, net.Conn)) {
	below, stop := p.trails.follow(a.Place)
	answer, serve := p.Admit(ctx, tunnel.Arrival{
		Opening:    a.Opening,
		Place:      tunnel.Place{Server: a.Server, Carrier: a.Channel},
		Remote:     a.Remote,
		Protection: wireGuardProtection(a.Protection),
		WireGuard:  a.Device,
		Below:      below,
	})
	if serve == nil {
		stop()
		return answer, nil
	}
	return answer, func(ctx context.Context, conn net.Conn) {
		defer stop()
		serve(ctx, conn)
	}
}
