package main

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inheritKeepAlive makes listeners whose connections have TCP's keep-alive from the
// kernel, with Go's own times. That saves four system calls for each of them.
func inheritKeepAlive(config *net.ListenConfig) {
	const idle, interval, count = 15, 15, 9 // in seconds
	config.KeepAlive = -1
	config.Control = func(_, _ string, c syscall.RawConn) error {
		var failed error
		set := func(fd uintptr) {
			for _, o := range []struct{ level, name, value int }{
				{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle},
				{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, interval},
				{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, count},
			} {
				if failed = unix.SetsockoptInt(int(fd), o.level, o.name, o.value); failed != nil {
					return
				}
			}
		}
		if err := c.Control(set); err != nil {
			return err
		}
		return os.NewSyscallError("setsockopt", failed)
	}
}
