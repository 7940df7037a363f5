//go:build !linux

package tlslink

import "net"

// What Linux has further settings for is left to the system's defaults.
func tuneMore(*net.TCPConn) {}
