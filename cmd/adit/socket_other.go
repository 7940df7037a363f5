//go:build !linux

package main

import (
	"errors"
	"syscall"
)

const canSteer = false

func steerSocket(syscall.RawConn, uint32, string) error { return errors.ErrUnsupported }
