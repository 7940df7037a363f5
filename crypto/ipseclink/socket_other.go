//go:build !linux

package ipseclink

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// openUDP opens none: elsewhere what protects a path cannot be seen, and nothing tied to
// it.
func openUDP(context.Context, netip.AddrPort, netip.AddrPort, func(syscall.RawConn) error) (*net.UDPConn, error) {
	return nil, errors.ErrUnsupported
}

func transmit(uintptr, []byte) (tooLong bool) { return false }
