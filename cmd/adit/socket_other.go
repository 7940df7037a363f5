//go:build !linux

package main

import (
	"errors"
	"syscall"
)

const canSteer = false

func steerSocket(syscall.RawConn, uint32, string) error { return errors.ErrUnsupported }

func setSegment(syscall.RawConn, int) error { return errors.ErrUnsupported }
