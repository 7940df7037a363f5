package wglink

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// knownPath gives what asks the system, for sockets that control sees, and whoever else knows
// of paths. Both may be nil.
func knownPath(control func(context.Context, string, string, syscall.RawConn) error, others func(context.Context, netip.AddrPort) int) func(context.Context, netip.AddrPort) int {
	return func(ctx context.Context, to netip.AddrPort) int {
		known := systemMTU(ctx, net.Dialer{ControlContext: control}, to)
		if others == nil {
			return known
		}
		if n := others(ctx, to); n > 0 && (known == 0 || n < known) {
			return n
		}
		return known
	}
}
