package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// congestion names the kernel's algorithm that says how fast carriers over TCP send; empty: the
// system's own choice.
type congestion string

func (c congestion) validate(key string, report func(key, what, todo string)) {
	switch {
	case c == "":
	case !canCongest:
		report(key, "this system lets nobody choose", "remove congestion")
	case len(c) > 15 || strings.ContainsFunc(string(c), func(r rune) bool { return r <= ' ' || r > '~' }):
		report(key, strconv.Quote(string(c))+" is no name of an algorithm", `write congestion = "bbr"`)
	}
}

// try finds out whether the kernel has the algorithm, and lets this process use it.
func (c congestion) try() error {
	if c == "" {
		return nil
	}
	err := tryCongestion(string(c))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return hint(fmt.Errorf("congestion: this kernel has no %q", c), "it has: %s; root may load more: modprobe tcp_%s", congestions(), c)
	case errors.Is(err, fs.ErrPermission):
		return hint(fmt.Errorf("congestion: this process may not use %q", c), "root can add it to net.ipv4.tcp_allowed_congestion_control, or give adit CAP_NET_ADMIN")
	}
	return fmt.Errorf("congestion: use %q: %w", c, err)
}

// set has a connection use the algorithm. It has been tried, and without it the connection is
// as good as others; so there is no error.
func (c congestion) set(raw syscall.RawConn) {
	if c != "" {
		_ = setCongestion(raw, string(c))
	}
}

// listener gives ln, whose connections use the algorithm.
func (c congestion) listener(ln net.Listener) net.Listener {
	if c == "" {
		return ln
	}
	return congestedListener{ln, c}
}

type congestedListener struct {
	net.Listener
	congestion congestion
}

func (l congestedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(syscall.Conn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			l.congestion.set(raw)
		}
	}
	return conn, err
}
