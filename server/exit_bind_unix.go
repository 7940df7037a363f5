//go:build unix

package server

import (
	"net"
	"syscall"
)

// setBacklog bounds how many connections wait at a listener. If it fails, more do:
// as many as the system lets.
func setBacklog(ln *net.TCPListener, n int) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return
	}
	// Once more on a socket that listens, it sets the number alone.
	_ = raw.Control(func(fd uintptr) { _ = syscall.Listen(int(fd), n) })
}
