//go:build !linux && !darwin && !freebsd && !windows

package wglink

import "net"

// keepWhole would have datagrams sent whole or not at all. Here the system decides.
func keepWhole(*net.UDPConn) {}

// isTooLarge would tell whether a datagram does not fit into the path.
func isTooLarge(error) bool { return false }
