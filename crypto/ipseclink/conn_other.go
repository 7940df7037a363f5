//go:build !linux

package ipseclink

import (
	"net"
	"syscall"
)

// Where readiness cannot be waited for, Go reads the connection, and Flush writes it.
func pollable(net.Conn) syscall.RawConn { return nil }

type socketReader struct{}

func (c *conn) tryRead(uintptr) bool { return true }

func (c *conn) tryWrite(uintptr) bool { return true }
