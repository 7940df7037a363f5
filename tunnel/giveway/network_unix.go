//go:build unix

package giveway

import (
	"os"
	"sync"
	"syscall"
)

// toNetwork waits for a byte that is there already: Go finds all the rest with it.
func toNetwork() {
	b, _ := bells.Get().(*bell)
	if b == nil {
		b = newBell()
	}
	if b != nil && b.ring() {
		bells.Put(b)
	}
}

var bells sync.Pool // of *bell

// bell is a pipe that a byte goes through to who waits for it. The collector closes it.
type bell struct {
	in    *os.File
	out   syscall.RawConn
	try   func(fd uintptr) bool // hear, made once, so that ringing allocates nothing
	rung  bool
	err   error
	octet [1]byte
}

// newBell gives nil if there is none to be had.
func newBell() *bell {
	out, in, err := os.Pipe()
	if err != nil {
		return nil
	}
	b := &bell{in: in}
	b.try = b.hear
	if b.out, err = out.SyscallConn(); err != nil {
		return nil
	}
	return b
}

// ring tells whether the bell can be used again.
func (b *bell) ring() bool {
	b.rung, b.err = false, nil
	return b.out.Read(b.try) == nil && b.err == nil
}

// hear rings when it is called first, and has its caller wait for that all the same.
func (b *bell) hear(fd uintptr) bool {
	if !b.rung {
		b.rung = true
		_, b.err = b.in.Write(b.octet[:])
		return b.err != nil
	}
	for {
		switch _, b.err = syscall.Read(int(fd), b.octet[:]); b.err {
		case syscall.EINTR: // what there is is not told of again
		case syscall.EAGAIN:
			return false
		default:
			return true
		}
	}
}
