//go:build !linux

package tlslink

import "net"

// Only Linux has Multipath TCP for us.
func pathless(*net.TCPConn) bool { return false }
