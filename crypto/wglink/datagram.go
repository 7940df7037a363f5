package wglink

import (
	"encoding/binary"
	"net"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxInbox is how many bytes of datagrams may wait at a connection, with
	// their lengths. As many may be about to be read.
	maxInbox = 128 << 10

	lengthSize = 2 // in front of each
)

// DatagramConn is a carrier's connection. Beside its bytes it takes datagrams, in
// packets of their own inside WireGuard, so that they wait for nothing that the bytes
// wait for. Only its peer can send them, and none arrives twice. They may get lost and
// overtake each other and the bytes. Both ends of a carrier are one.
type DatagramConn interface {
	net.Conn

	// DatagramSize is how many bytes a datagram may have, so that none is cut in
	// pieces on the way. It changes with the path.
	DatagramSize() int

	// WriteDatagrams sends datagrams and keeps nothing of batch. It never waits:
	// those are lost that are too long, or that there is no room for. It is safe for
	// concurrent use, also with Write.
	WriteDatagrams(batch [][]byte)

	// ReadDatagram waits for a datagram, of which it drops what b has no room for.
	// Deadlines do not end it, but Close does. It is called by one goroutine at a time.
	ReadDatagram(b []byte) (int, error)
}

// datagramConn is a TCP connection with datagrams beside it.
type datagramConn struct {
	*tcpConn
	cable *cable
	gauge *gauge
	tag   tag // set by enter
	inbox inbox
}

func newDatagramConn(c *tcpConn, at *cable, to *gauge) *datagramConn {
	return &datagramConn{tcpConn: c, cable: at, gauge: to, inbox: inbox{arrived: make(chan struct{}, 1)}}
}

// enter lets datagrams of a tag come in, until leave. It fails if another connection
// has it.
func (c *datagramConn) enter(t tag) bool {
	c.tag = t
	return c.cable.inboxes.add(t, &c.inbox)
}

func (c *datagramConn) leave() { c.cable.inboxes.remove(c.tag) }

func (c *datagramConn) DatagramSize() int { return int(c.gauge.limit.Load()) - frameHead }

func (c *datagramConn) WriteDatagrams(all [][]byte) {
	size := c.DatagramSize()
	for some := range slices.Chunk(all, batch) {
		if c.over(nil) != nil {
			return
		}
		var packets [batch]*stack.PacketBuffer
		n := 0
		for _, payload := range some {
			if len(payload) <= size {
				c.gauge.use(len(payload))
				packets[n] = c.packet(payload)
				n++
			}
		}
		c.cable.offer(packets[:n]...)
		for _, p := range packets[:n] {
			p.DecRef()
		}
	}
}

// packet makes a packet of a datagram.
func (c *datagramConn) packet(payload []byte) *stack.PacketBuffer {
	frame := buffer.NewViewSize(frameSize(len(payload)))
	c.cable.inboxes.back().put(frame.AsSlice(), c.tag, payload)
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)})
}

func (c *datagramConn) ReadDatagram(b []byte) (int, error) {
	for {
		if err := c.over(nil); err != nil {
			return 0, c.fail("read", err)
		}
		if n, ok := c.inbox.take(b); ok {
			return n, nil
		}
		select {
		case <-c.inbox.arrived:
		case <-c.closed:
		}
	}
}

// inbox has the datagrams that wait at a connection, and no memory while there are
// none.
type inbox struct {
	arrived chan struct{} // has room for one

	mu      sync.Mutex
	waiting []byte // each behind its length
	taken   []byte // waited before those, and come first
	room    []byte // that taken is in
}

// put takes a copy of a datagram in two parts, if there is room.
func (i *inbox) put(first, rest []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	size := len(first) + len(rest)
	if len(i.waiting)+lengthSize+size > maxInbox {
		return
	}
	i.waiting = binary.BigEndian.AppendUint16(i.waiting, uint16(size))
	i.waiting = append(append(i.waiting, first...), rest...)
	select {
	case i.arrived <- struct{}{}:
	default:
	}
}

// take copies the next datagram to b, if there is one.
func (i *inbox) take(b []byte) (n int, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.taken) == 0 {
		if len(i.waiting) == 0 {
			i.waiting, i.taken, i.room = nil, nil, nil
			return 0, false
		}
		i.waiting, i.taken, i.room = i.room[:0], i.waiting, i.waiting
	}
	end := lengthSize + int(binary.BigEndian.Uint16(i.taken))
	n = copy(b, i.taken[lengthSize:end])
	i.taken = i.taken[end:]
	return n, true
}
