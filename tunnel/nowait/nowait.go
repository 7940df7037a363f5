//go:build unix

// Package nowait reads and writes descriptors that do not block, and leaves Go's scheduler out
// of it.
//
// Before a system call that may wait, the scheduler gets ready to do without the processor,
// and wakes the thread that watches over that if all was idle before. Where nothing
// waits neither is needed, and a small piece of data costs less than that: it was a tenth
// of what a busy client did.
//
// To close a connection of package net, or to make one, is such a call, too, though none of them
// waits. A [Conn] does without: where there is one, one poll more is what an event costs.
package nowait

import (
	"net"
	"syscall"
)

// restless is how many reads in a row may find something before the scheduler's thread is
// woken: it also sees to it that no goroutine keeps others from the processor or the network.
const restless = 16

// Reader reads one descriptor. It is for one goroutine at a time, and its zero value is ready.
type Reader struct {
	found int // reads since one found nothing, or woke the thread
}

// Read is read(2), begun again after a signal.
func (r *Reader) Read(fd int, b []byte) (n int, err error) {
	do := read
	if r.found++; r.found > restless {
		r.found, do = 0, syscall.Read
	}
	for {
		n, err = do(fd, b)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.found = 0
		}
		return n, err
	}
}

// Write is write(2), begun again after a signal.
func Write(fd int, b []byte) (n int, err error) {
	for {
		if n, err = write(fd, b); err != syscall.EINTR {
			return n, err
		}
	}
}

// Socket gives access to a TCP connection's descriptor. It is nil for other connections, which may
// do something of their own in Read and Write, and are not to be bypassed.
func Socket(c net.Conn) syscall.RawConn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
