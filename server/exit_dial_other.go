//go:build !linux

package server

import (
	"context"
	"errors"
	"net/netip"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

func isPlain(netip.AddrPort, wishes) bool { return false }

func (*Exit) dialPlain(context.Context, socks.Request, netip.AddrPort) (relay.Conn, error) {
	return nil, errors.ErrUnsupported
}

func holdPlain() (release func()) { return func() {} }
