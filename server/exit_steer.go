package server

import (
	"net/netip"
	"syscall"
)

// Steer sets up a socket of an [Exit] before it is used, so that its packets go by a way of
// their own.
type Steer func(c syscall.RawConn) error

// control is for [net.Dialer] and [net.ListenConfig]. What stays on this host, as questions to
// its own resolver do, goes no way.
func (s Steer) control(_, address string, c syscall.RawConn) error {
	if s == nil {
		return nil
	}
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().IsLoopback() {
		return nil
	}
	if at, err := netip.ParseAddr(address); err == nil && at.IsLoopback() {
		return nil
	}
	return s(c)
}
