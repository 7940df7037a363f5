package main

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const canCongest = true

// tryCongestion has a socket use an algorithm.
func tryCongestion(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("setsockopt", unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name))
}

// congestions names the algorithms that there are.
func congestions() string {
	all, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		return "what it does not say"
	}
	return strings.Join(strings.Fields(string(all)), ", ")
}

func setCongestion(raw syscall.RawConn, name string) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name))
	}); e != nil {
		return e
	}
	return err
}
