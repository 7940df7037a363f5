package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const canSteer = true

// steerSocket marks a socket's packets, and binds it to an interface.
func steerSocket(c syscall.RawConn, mark uint32, device string) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		if mark != 0 {
			err = os.NewSyscallError("mark", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
		}
		if err == nil && device != "" {
			err = os.NewSyscallError("bind to "+device, unix.BindToDevice(int(fd), device))
		}
	}); e != nil {
		return e
	}
	return err
}

// setSegment has both ends of a connection that is about to begin send no segments of more bytes.
func setSegment(c syscall.RawConn, size int) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, size))
	}); e != nil {
		return e
	}
	return err
}
