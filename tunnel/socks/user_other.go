//go:build !linux

package socks

import (
	"errors"
	"net"
)

func canTellUsers(net.IP) error { return errors.ErrUnsupported }

func checkUser(net.Conn) error { return errors.ErrUnsupported }
