//go:build !unix

package server

import (
	"errors"
	"syscall"

	"github.com/adit-net/adit/tunnel/socks"
)

func setStack(syscall.RawConn, bool, socks.StackKind6, int) error { return errors.ErrUnsupported }

func getStack(syscall.RawConn, bool, socks.StackKind6) (int, error) { return 0, errors.ErrUnsupported }
