//go:build !linux

package socks

import (
	"errors"
	"net"
	"net/netip"
)

func ownerOf(net.Conn) (uint32, error) { return 0, errors.ErrUnsupported }

func canTellOwners(netip.AddrPort, netip.Addr) error { return errors.ErrUnsupported }

func checkOwner(_, _ netip.AddrPort, _ uint32) error { return errors.ErrUnsupported }
