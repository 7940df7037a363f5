package server

import (
	"net"
	"os"

	"golang.org/x/sys/windows"
)

// forbidBroadcast takes back what package net allows every UDP socket.
func forbidBroadcast(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Control(func(fd uintptr) {
		failure = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_BROADCAST, 0)
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", failure)
}
