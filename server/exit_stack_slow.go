//go:build !linux

package server

import (
	"errors"
	"syscall"

	"github.com/adit-net/adit/tunnel/relay"
)

// canFastOpen says whether this system's fast open is used.
const canFastOpen = false

func setFastOpen(syscall.RawConn) error { return errors.ErrUnsupported }

func awaitPeer(relay.Conn) error { return errors.ErrUnsupported }

func fastOpened(syscall.RawConn, int) int { return 0 }
