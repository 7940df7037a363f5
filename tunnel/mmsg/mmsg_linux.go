package mmsg

import (
	"net"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// MaxBatch is how many messages are read or written at once, and how many buffers they
// may have in all. What goes beyond that is left for the next call.
const MaxBatch = 64

// Conn is a UDP socket. Any number of goroutines may write to it, while one waits and
// reads.
//
// Before a system call that may wait, Go's scheduler gets ready to do without the
// processor, and wakes the thread that watches over that if all was idle before. Calls
// that never wait need neither, and with small batches it costs as much as the packets
// do. But that thread also sees to it that no goroutine keeps others from the processor or
// the network, so a reader who has had no rest does wake it.
type Conn struct {
	raw    syscall.RawConn
	look   func(fd uintptr) bool // made once, so that waiting allocates nothing
	looks  int                   // of the last Wait
	rested bool                  // the last Wait had to
	events int16
}

// New gives the Conn of a UDP socket, which goes on to be the caller's.
func New(socket syscall.RawConn) *Conn {
	c := &Conn{raw: socket}
	c.look = c.poll
	return c
}

// Wait waits until there is something to read or tell, or a read deadline has passed, and
// gives the events of poll(2).
func (c *Conn) Wait() (events int16, err error) {
	c.looks = 0
	err = c.raw.Read(c.look)
	c.rested = c.looks > 1
	return c.events, err
}

// poll tells whether there are any events.
func (c *Conn) poll(fd uintptr) bool {
	c.looks++
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := pollNow(&p)
	c.events = p.Revents
	return n > 0 || err != 0
}

// ReadBatch reads the messages that are there, and tells how many. Each has one buffer,
// and room for control messages in OOB. If its Addr is a *net.UDPAddr, as it is after a
// ReadBatch, that is used again. Its zone is a number.
//
// The error is EAGAIN if there are none. The flags are in addition to MSG_DONTWAIT.
func (c *Conn) ReadBatch(messages []ipv4.Message, flags int) (int, error) {
	b := batches.Get().(*batch)
	defer b.free()
	for i := range messages[:min(len(messages), MaxBatch)] {
		b.add(&messages[i])
		b.names[i] = name{}
		b.headers[i].Name = b.names[i].pointer()
		b.headers[i].Namelen = unix.SizeofSockaddrInet6
	}
	b.flags, b.watched = flags|unix.MSG_DONTWAIT, !c.rested
	if err := c.do(b, b.read); err != nil {
		return 0, err
	}
	for i := range b.done {
		m, h := &messages[i], &b.headers[i]
		m.N, m.NN, m.Flags = int(h.bytes), int(h.Controllen), int(h.Flags)
		addr, ok := m.Addr.(*net.UDPAddr)
		if !ok {
			addr = new(net.UDPAddr)
			m.Addr = addr
		}
		b.names[i].get(addr)
	}
	return b.done, nil
}

// WriteBatch writes messages, and tells how many the system has taken. Each goes to its
// Addr, a *net.UDPAddr without a zone, as one packet of all its buffers. The error is about the
// first message, and EAGAIN if there is no room.
func (c *Conn) WriteBatch(messages []ipv4.Message, flags int) (int, error) {
	b := batches.Get().(*batch)
	defer b.free()
	for i := range messages[:min(len(messages), MaxBatch)] {
		if !b.add(&messages[i]) {
			break
		}
		b.headers[i].Name = b.names[i].pointer()
		b.headers[i].Namelen = b.names[i].set(messages[i].Addr.(*net.UDPAddr))
	}
	b.flags = flags | unix.MSG_DONTWAIT
	err := c.do(b, b.write)
	return b.done, err
}

// do makes a system call.
func (c *Conn) do(b *batch, call func(fd uintptr)) error {
	for {
		err := c.raw.Control(call)
		if err == nil {
			switch b.err {
			case 0:
				return nil
			case unix.EINTR:
				continue
			}
			err = b.err
		}
		b.done = 0 // it may be what b has done for somebody before
		return err
	}
}
