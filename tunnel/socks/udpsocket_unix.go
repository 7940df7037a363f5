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
	packets  packets
	segments bool
}

// packets is what reads and writes.
type packets interface {
	Wait() (events int16, err error)
	batches
}

type batches interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

func newBatchConn(c *net.UDPConn, raw syscall.RawConn, local netip.Addr) batchConn {
	return batchConn{packets: packetsOf(c, raw, local), segments: segments(raw, local)}
}

// wait waits for something to read, or a deadline.
func (b batchConn) wait(syscall.RawConn) error {
	_, err := b.packets.Wait()
	return err
}

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

// netPackets are for addresses with zones, and for systems whose calls take but one packet.
type netPackets struct {
	batches
	raw syscall.RawConn
}

func newNetPackets(c *net.UDPConn, raw syscall.RawConn, local netip.Addr) netPackets {
	if local.Is6() {
		return netPackets{ipv6.NewPacketConn(c), raw}
	}
	return netPackets{ipv4.NewPacketConn(c), raw}
}

// Wait waits until there is something to read, or a deadline. The poller wakes it up, and
// knows no events.
func (p netPackets) Wait() (events int16, err error) {
	return 0, p.raw.Read(readable)
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
