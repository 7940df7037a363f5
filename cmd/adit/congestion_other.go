//go:build !linux

package main

import (
	"errors"
	"syscall"
)

const canCongest = false

func tryCongestion(string) error { return errors.ErrUnsupported }

func congestions() string { return "none to choose from" }

func setCongestion(syscall.RawConn, string) error { return errors.ErrUnsupported }
