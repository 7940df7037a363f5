//go:build unix

package socks

import (
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// batchConn reads and writes many packets at once where the system can, and one
// elsewhere.
type batchConn struct {
	packets interface {
		ReadBatch(ms []ipv4.Message, flags int) (int, error)
		WriteBatch(ms []ipv4.Message, flags int) (int, error)
	}
	readable func(fd uintptr) bool // made once, so that waiting allocates nothing
	segments bool
}

func newBatchConn(c *net.UDPConn, local netip.Addr) batchConn {
	b := batchConn{readable: readable, segments: segments(c, local)}
	if b.packets = ipv4.NewPacketConn(c); local.Is6() {
		b.packets = ipv6.NewPacketConn(c)
	}
	return b
}

// readable tells whether a read would not have to wait.
func readable(fd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 || err != nil
		}
	}
}

// wait waits for something to read, or a deadline.
func (b batchConn) wait(raw syscall.RawConn) error { return raw.Read(b.readable) }

// read reads what waits. There may be nothing.
func (b batchConn) read(_ *net.UDPConn, in *incoming) (int, error) {
	n, err := b.packets.ReadBatch(in.messages, unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return n, err
}

// write sends what the system takes at once. A packet that it never takes holds up no
// other.
func (b batchConn) write(_ *net.UDPConn, messages []ipv4.Message) {
	if b.segments {
		messages = join(messages)
	}
	for len(messages) > 0 {
		n, err := b.packets.WriteBatch(messages, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			messages = messages[n:]
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EMSGSIZE):
			messages = messages[1:]
		default:
			return // its queue is full, or it is closed
		}
	}
}
