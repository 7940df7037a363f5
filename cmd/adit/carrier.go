package main

import (
	"context"
	"errors"
	"net"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/ipsec"
	"github.com/adit-net/adit/crypto/ipseclink"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/tunnel"
)

// The session layer and the carriers below it do not know each other. Here they
// meet.

// carrier makes a [client.Carrier] of a TLS connection.
type carrier struct{ *tlslink.Carrier }

func (c carrier) Place() tunnel.Place {
	return tunnel.Place{Server: c.Server(), Carrier: c.Channel()}
}

func (c carrier) Protection() tunnel.Protection { return protection(c.Carrier.Protection()) }

func protection(p tlslink.Protection) tunnel.Protection {
	return tunnel.Protection{
		Carrier:     "tls",
		Version:     p.Version,
		Cipher:      p.Cipher,
		KeyExchange: p.KeyExchange,
		Fingerprint: p.Fingerprint,
	}
}

// dialServer gives the dialer for a server. The config is valid.
func dialServer(cfg remoteConfig, below *ipsec.Detector) (client.Dialer, error) {
	d := &tlslink.Dialer{
		Address:     cfg.Address,
		ServerName:  cfg.Name,
		UseCA:       cfg.CA,
		Fingerprint: cfg.Fingerprint,
		Multipath:   cfg.MPTCP,
	}
	var narrow narrows
	d.Control = narrow.control(cfg.steer(below.Fit))
	if cfg.RequireIPsec {
		d.Control = narrow.control(cfg.steer(below.Control))
	}
	if !cfg.CA {
		pin, err := keys.ParsePin(cfg.Pin)
		if err != nil {
			return nil, err
		}
		d.Pin = pin
	}
	return narrow.dial(func(ctx context.Context) (client.Carrier, error) {
		c, err := d.Dial(ctx)
		if err != nil {
			return nil, err
		}
		return carrier{c}, nil
	}), nil
}

// admitter judges arrivals, as a [server.Server] does.
type admitter interface {
	Admit(ctx context.Context, a tunnel.Arrival) (answer []byte, serve func(context.Context, net.Conn))
}

// admitAt lets a server judge what arrives on TLS connections.
func admitAt(s admitter) tlslink.Admit {
	return func(ctx context.Context, a tlslink.Arrival) ([]byte, func(context.Context, net.Conn)) {
		return s.Admit(ctx, tunnel.Arrival{
			Opening:    a.Opening,
			Place:      tunnel.Place{Server: a.Server, Carrier: a.Channel},
			Local:      a.Local,
			Remote:     a.Remote,
			Protection: protection(a.Protection),
		})
	}
}

// dialHint says what to do about a server that cannot be reached, or turns us away.
func dialHint(err error) error {
	if refusal, ok := errors.AsType[tunnel.Refusal](err); ok {
		return refusalHint(err, refusal)
	}
	_, unreachable := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, tlslink.ErrWrongPin), errors.Is(err, ipseclink.ErrWrongPin):
		return hint(err, "somebody may be in between; if the server really has a new key, ask for a new invite")
	case errors.Is(err, tlslink.ErrWebsite):
		return hint(err, "check the address, or ask whoever runs the server for a new invite")
	case errors.Is(err, ipsec.ErrUnprotected):
		return hint(err, "bring up the IPsec connection; or do without: see require_ipsec and carriers in client.toml")
	case unreachable:
		return hint(err, "check that the server runs, and that no firewall is in between")
	}
	return err
}

func refusalHint(err error, refusal tunnel.Refusal) error {
	switch refusal {
	case tunnel.RefusedDeviceRevoked, tunnel.RefusedInviteExpired, tunnel.RefusedInviteUsed:
		return hint(err, "ask whoever runs the server for a new invite")
	case tunnel.RefusedUserDisabled:
		return hint(err, "ask whoever runs the server to enable your user")
	case tunnel.RefusedBusy:
		return hint(err, "try again in a minute")
	case tunnel.RefusedVersion:
		return hint(err, "install the same version of adit on both sides")
	}
	return err
}
