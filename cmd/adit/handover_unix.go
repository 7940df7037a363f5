//go:build unix

package main

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// mayHandOver says why this process cannot start another one in its place.
func mayHandOver(c *commandLine) error {
	switch {
	case c == nil:
		return errors.New("this server is a part of another program")
	case os.Getpid() == 1:
		return hint(errors.New("this server is process 1: when it ends, so does everything"), "run it below an init")
	}
	return nil
}

// copyListener gives another descriptor of a listener's socket. It goes round
// [net.TCPListener.File], whose descriptor would block, and this one with it.
func copyListener(ln net.Listener) (*os.File, error) {
	s, ok := ln.(syscall.Conn)
	if !ok {
		return nil, errors.New("it is no socket")
	}
	return copyOf(s, ln.Addr().String())
}

func copyFile(f *os.File) (*os.File, error) { return copyOf(f, f.Name()) }

func copyOf(s syscall.Conn, name string) (*os.File, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, err
	}
	var copied int
	var failed error
	err = raw.Control(func(fd uintptr) { copied, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(copied), name), nil
}

func closeOnExec(fd int) { unix.CloseOnExec(fd) }
