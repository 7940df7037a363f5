//go:build !unix

package server

import "net"

// setBacklog leaves it at what the system gives.
func setBacklog(*net.TCPListener, int) {}
