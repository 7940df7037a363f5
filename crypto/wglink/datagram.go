package wglink

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxInbox is how many bytes of datagrams may wait at a connection, with
	// their lengths. As many may be about to be read.
	maxInbox = 128 << 10

	lengthSize = 2 // in front of each
)

// DatagramConn is a carrier's connection. Beside its bytes it takes datagrams, as
// UDP between the same addresses and ports inside WireGuard, so that they wait for
// nothing that the bytes wait for. Only its peer can send them, and none arrives twice.
// They may get lost and overtake each other and the bytes.
type DatagramConn interface {
	net.Conn

	// DatagramSize is how many bytes a datagram may have, so that none is cut in
	// pieces inside WireGuard.
	DatagramSize() int

	// WriteDatagrams sends datagrams and keeps nothing of batch. It never waits:
	// those are lost that are too long, or that there is no room for. It is safe for
	// concurrent use, also with Write.
	WriteDatagrams(batch [][]byte)

	// ReadDatagram waits for a datagram, of which it drops what b has no room for.
	// Deadlines do not end it, but Close does. It is called by one goroutine at a time.
	ReadDatagram(b []byte) (int, error)
}

// datagramConn is a TCP connection with UDP beside it.
type datagramConn struct {
	*tcpConn
	cable *cable
	inbox inbox
}

func newDatagramConn(c *tcpConn, at *cable) *datagramConn {
	return &datagramConn{tcpConn: c, cable: at, inbox: inbox{arrived: make(chan struct{}, 1)}}
}

// enter lets datagrams come in, until leave.
func (c *datagramConn) enter() { c.cable.datagrams.add(c.route(), &c.inbox) }
func (c *datagramConn) leave() { c.cable.datagrams.remove(c.route(), &c.inbox) }

// route is how what comes names its way.
func (c *datagramConn) route() route { return routeOf(c.remote, c.local) }

func (c *datagramConn) DatagramSize() int {
	return c.cable.mtu - header.IPv6MinimumSize - header.UDPMinimumSize
}

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

// packet makes an IP packet of a datagram.
func (c *datagramConn) packet(payload []byte) *stack.PacketBuffer {
	message := udpMessage(c.local, c.remote, payload)
	b := ipPacket(header.UDPProtocolNumber, c.local.Addr(), c.remote.Addr(), 0, message, 0, false)
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
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

// put takes a copy of a datagram, if there is room.
func (i *inbox) put(d []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.waiting)+lengthSize+len(d) > maxInbox {
		return
	}
	i.waiting = append(binary.BigEndian.AppendUint16(i.waiting, uint16(len(d))), d...)
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

// Places in a packet of IPv6 (RFC 8200 section 3) and UDP.
const (
	ipv6Next      = 6
	ipv6Addresses = 8
	udpHead       = header.IPv6MinimumSize + header.UDPMinimumSize
)

// route is where a packet comes from and where it goes: both addresses and both
// ports, as they follow each other in it.
type route [2*header.IPv6AddressSize + 4]byte

func routeOf(from, to netip.AddrPort) route {
	a, b := from.Addr().As16(), to.Addr().As16()
	r := append(a[:], b[:]...)
	r = binary.BigEndian.AppendUint16(r, from.Port())
	return route(binary.BigEndian.AppendUint16(r, to.Port()))
}

// inboxes knows the connections that take datagrams.
type inboxes struct {
	mu  sync.RWMutex
	all map[route]*inbox
}

func (s *inboxes) add(r route, i *inbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[route]*inbox{}
	}
	s.all[r] = i
}

// remove forgets an inbox, but none that has taken its place.
func (s *inboxes) remove(r route, i *inbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[r] == i {
		delete(s.all, r)
	}
}

// deliver takes all UDP packets and tells whether b is one. Those for no connection
// are dropped, and those that are garbled. WireGuard has seen to it that the source
// is the sender's.
func (s *inboxes) deliver(b []byte) bool {
	if len(b) < udpHead || b[0]>>4 != header.IPv6Version || b[ipv6Next] != uint8(header.UDPProtocolNumber) {
		return false
	}
	s.mu.RLock()
	i := s.all[route(b[ipv6Addresses:])]
	s.mu.RUnlock()
	if i != nil && isWhole(b) {
		i.put(b[udpHead:])
	}
	return true
}

// isWhole tells whether a UDP packet is as long as it says, and its checksum right.
func isWhole(b []byte) bool {
	ip, udp := header.IPv6(b), header.UDP(b[header.IPv6MinimumSize:])
	if int(ip.PayloadLength()) != len(udp) || int(udp.Length()) != len(udp) || udp.Checksum() == 0 {
		return false
	}
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(udp)))
	return checksum.Checksum(udp, pseudo) == 0xffff
}
