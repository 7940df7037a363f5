package main

import "syscall"

// besideThis lets a process be this one's sibling: systemd is its parent then, and
// notices how it ends.
func besideThis() *syscall.SysProcAttr { return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_PARENT} }
