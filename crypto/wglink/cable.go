package wglink

import (
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// cableBytes is how much may wait for WireGuard. Beyond it whoever sends
	// has to wait: in TCP's send buffer a byte is as safe as here, and it does
	// not stand in front of others. Nothing of it is dropped. As much may wait of
	// datagrams and other packets whose senders cannot wait, and these are.
	cableBytes = 256 << 10

	// packetCost is what a packet without payload counts for.
	packetCost = 256

	// maxJoined bounds what packets are joined to, and maxSegment what the stack
	// may send to be cut. A segment that was lost in part costs the stack more
	// than its parts would, so the latter is smaller.
	maxJoined  = 1<<16 - 1
	maxSegment = 16 << 10

	// batch is how many packets go through WireGuard at once. It keeps as many
	// buffers of 64 KiB in several places, and more of them make it no faster.
	batch = 32
)

// cable joins a TCP/IP stack and a WireGuard device: it is the network
// interface of the one and the TUN device of the other. Packets pass in
// batches, and long TCP segments pass whole on the stack's side, so that what
// the stack does per packet is done per segment.
type cable struct {
	sizes  *sizes
	events chan tun.Event
	out    passage  // of packets to WireGuard; Read's own
	in     *counter // of packets that WireGuard has given; nil: nobody counts

	// inboxes are those of carriers, which is what the stack has. What it is given is
	// IPv6 then. nil: it has other connections.
	inboxes *inboxes

	echoes echoes // by which it is found out what comes through

	attached sync.RWMutex            // guards what follows
	stack    stack.NetworkDispatcher // nil before and after
	guests   stack.NetworkDispatcher // of another stack; nil if there is none
	filter   func(packet []byte) verdict

	mu      sync.Mutex // guards what follows
	filled  sync.Cond  // queue is not empty any more, or the cable is closed
	room    sync.Cond  // queue is empty again, or the cable is closed
	queue   []*stack.PacketBuffer
	bytes   int // of what may wait for room
	loose   int // of what may not
	closed  bool
	read    uint64 // packets that Read has given
	waiting bool   // Read waits

	// What Read has taken from the queue. Read is called by one goroutine.
	taken []*stack.PacketBuffer
	done  int // of taken
	knife knife
}

// newCable makes a cable to a device that counts what it sends, and may have so many packets inside.
func newCable(mtu int, sent *counter, inside int64) *cable {
	c := &cable{sizes: newSizes(mtu), out: passage{most: inside, out: sent}, events: make(chan tun.Event)}
	c.filled.L, c.room.L = &c.mu, &c.mu
	return c
}

// Read is [tun.Device]'s: it gives what the stack sends, cut to size.
func (c *cable) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	c.out.hold(c.read)
	for n < len(bufs) {
		if c.knife.idle() {
			p := c.take(n == 0)
			if p == nil {
				break
			}
			c.knife.lay(p, c.sizes)
		}
		sizes[n] = c.knife.cut(bufs[n][offset:])
		n++
	}
	if n == 0 {
		return 0, os.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read += uint64(n)
	return n, nil
}

// passed tells whether there is nothing on the way through the cable, and how
// many packets have come out at WireGuard's end.
func (c *cable) passed() (packets uint64, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read, len(c.queue) == 0 && c.waiting
}

// take gives the next packet. If there is none it waits, or gives nil. It
// gives nil when the cable is closed.
func (c *cable) take(wait bool) *stack.PacketBuffer {
	if c.done == len(c.taken) && !c.refill(wait) {
		return nil
	}
	p := c.taken[c.done]
	c.taken[c.done] = nil
	c.done++
	return p
}

func (c *cable) refill(wait bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = wait
	for wait && len(c.queue) == 0 && !c.closed {
		c.filled.Wait()
	}
	c.waiting = false
	c.queue, c.taken, c.done = c.taken[:0], c.queue, 0
	c.bytes, c.loose = 0, 0
	c.room.Broadcast()
	return len(c.taken) > 0
}

// WritePackets is the stack's: it queues what the stack sends, and waits while
// the queue is full.
func (c *cable) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	packets := list.AsSlice()
	for i, p := range packets {
		for c.bytes >= cableBytes && !c.closed {
			c.room.Wait()
		}
		if c.closed {
			return i, &tcpip.ErrClosedForSend{}
		}
		c.queue = append(c.queue, p.IncRef())
		c.bytes += p.Size() + packetCost
		c.filled.Signal()
	}
	return len(packets), nil
}

// Write is [tun.Device]'s: it gives the stack what WireGuard has received. It
// does not keep the buffers.
func (c *cable) Write(bufs [][]byte, offset int) (int, error) {
	c.attached.RLock()
	defer c.attached.RUnlock()
	if c.stack == nil {
		return 0, os.ErrClosed
	}
	for rest := bufs; len(rest) > 0; {
		n := c.deliver(rest, offset)
		rest = rest[n:]
		if c.in != nil {
			c.in.add(n)
		}
	}
	return len(bufs), nil
}

// deliver hands over the first packet in bufs, and those that it can be joined
// with, and says how many that is. The caller holds attached.
func (c *cable) deliver(bufs [][]byte, offset int) int {
	first := bufs[0][offset:]
	if c.inboxes != nil && isFrame(first) {
		c.inboxes.deliver(first)
		return 1
	}
	if c.echoes.answered(first) {
		return 1
	}
	to := c.whose(first)
	p, version, n := join(bufs, offset)
	if p == nil {
		return n
	}
	if to != nil {
		to.DeliverNetworkPacket(version, p)
	}
	p.DecRef()
	return n
}

// verdict is what a filter says about a packet.
type verdict int

const (
	dropped  verdict = iota
	toStack          // it is a device's
	toGuests         // it is a guest's
)

// whose gives the stack that a packet is for; nil if it is for none. All that are
// joined to it have the same addresses. The caller holds attached.
func (c *cable) whose(packet []byte) stack.NetworkDispatcher {
	if c.guests == nil {
		if c.inboxes != nil && len(packet) > 0 && packet[0]>>4 == header.IPv4Version {
			return nil // a device may send packets from its tags
		}
		return c.stack
	}
	switch c.filter(packet) {
	case toStack:
		return c.stack
	case toGuests:
		return c.guests
	}
	return nil
}

// offer queues packets as WritePackets does, but never waits. They are dropped,
// all of them, where cableBytes of such packets wait. Neither these nor others who send
// take each other's room.
func (c *cable) offer(packets ...*stack.PacketBuffer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.loose >= cableBytes {
		return false
	}
	for _, p := range packets {
		c.queue = append(c.queue, p.IncRef())
		c.loose += p.Size() + packetCost
	}
	c.filled.Signal()
	return true
}

// Close ends Read and WritePackets. What waits is lost. It is called by the
// WireGuard device and by the stack, in any order.
func (c *cable) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	for _, p := range c.queue {
		p.DecRef()
	}
	c.queue, c.bytes, c.loose = nil, 0, 0
	c.filled.Broadcast()
	c.room.Broadcast()
	close(c.events)
}

// device is the cable's end at WireGuard.
type deviceEnd struct{ *cable }

func (e deviceEnd) Close() error             { e.shut(); return nil }
func (e deviceEnd) MTU() (int, error)        { return e.sizes.mtu, nil }
func (e deviceEnd) Name() (string, error)    { return "adit", nil }
func (e deviceEnd) Events() <-chan tun.Event { return e.events }
func (e deviceEnd) File() *os.File           { return nil }
func (e deviceEnd) BatchSize() int           { return batch }

// stackEnd is the cable's end at the stack.
type stackEnd struct{ *cable }

func (e stackEnd) Close()      { e.shut() }
func (e stackEnd) MTU() uint32 { return uint32(e.sizes.mtu) }

func (e stackEnd) Attach(d stack.NetworkDispatcher) {
	e.attached.Lock()
	defer e.attached.Unlock()
	e.stack = d
}

func (e stackEnd) IsAttached() bool {
	e.attached.RLock()
	defer e.attached.RUnlock()
	return e.stack != nil
}

// Capabilities tells the stack to make and to verify all checksums but those of
// outgoing segments, which the cable makes when it cuts them. WireGuard
// vouches for what happens between its two ends. But a peer may be a gateway,
// and what the packets have been through before it only their own checksums
// tell.
func (stackEnd) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }

func (stackEnd) GSOMaxSize() uint32               { return maxSegment }
func (stackEnd) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// There is no link layer below IP.

func (stackEnd) MaxHeaderLength() uint16                 { return 0 }
func (stackEnd) LinkAddress() tcpip.LinkAddress          { return "" }
func (stackEnd) SetLinkAddress(tcpip.LinkAddress)        {}
func (stackEnd) SetMTU(uint32)                           {}
func (stackEnd) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (stackEnd) AddHeader(*stack.PacketBuffer)           {}
func (stackEnd) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (stackEnd) SetOnCloseAction(func())                 {}
func (stackEnd) Wait()                                   {}
