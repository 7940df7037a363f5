//go:build !linux

package main

import "syscall"

// besideThis has no means here: a successor is a child of its predecessor, and of
// process 1 after that one's end.
func besideThis() *syscall.SysProcAttr { return nil }
