package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
)

// control is what [net.Dialer].ControlContext is.
type control func(ctx context.Context, network, address string, c syscall.RawConn) error

// steer has connections to the server go by the mark and the interface, and as fast as the
// algorithm says, that the config names, before next has its say.
func (c remoteConfig) steer(next control) control {
	if c.Mark == 0 && c.Interface == "" && c.Congestion == "" {
		return next
	}
	return func(ctx context.Context, network, address string, raw syscall.RawConn) error {
		if err := steerSocket(raw, c.Mark, c.Interface); err != nil {
			return hint(fmt.Errorf("steer a connection to the server: %w", err), "see mark and interface in client.toml; a mark takes CAP_NET_ADMIN")
		}
		if strings.HasPrefix(network, "tcp") {
			c.Congestion.set(raw)
		}
		if next == nil {
			return nil
		}
		return next(ctx, network, address, raw)
	}
}
