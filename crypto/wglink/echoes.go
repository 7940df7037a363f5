package wglink

import (
	"crypto/rand"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ticket is drawn for an echo request, and comes back in the answer.
type ticket [8]byte

// echoes waits for the answers to ICMPv6 echo requests of our own (RFC 4443 section 4).
type echoes struct {
	mu      sync.Mutex
	waiting map[ticket]chan struct{}
}

// echoing is an echo request that was sent.
type echoing struct {
	ticket
	answered chan struct{} // has an item when it was
}

// ask sends a peer an echo request in a packet of a size, which must be forgotten.
func (c *cable) ask(own, peer netip.Addr, size int) echoing {
	m := make([]byte, size-header.IPv6MinimumSize)
	m[0] = byte(header.ICMPv6EchoRequest)
	e := echoing{answered: make(chan struct{}, 1)}
	_, _ = rand.Read(e.ticket[:]) // it has no error
	copy(m[echoHeader:], e.ticket[:])
	c.echoes.expect(e)
	b := ipPacket(header.ICMPv6ProtocolNumber, own, peer, 0, sumUp(own, peer, m), 0, false)
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	defer p.DecRef()
	c.offer(p) // what is lost here tells no more than what is lost elsewhere
	return e
}

func (s *echoes) expect(e echoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = map[ticket]chan struct{}{}
	}
	s.waiting[e.ticket] = e.answered
}

func (s *echoes) forget(e echoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, e.ticket)
}

// answered tells whether a packet answers a request. WireGuard vouches for it, and nobody else
// knows the ticket.
func (s *echoes) answered(b []byte) bool {
	const at = header.IPv6MinimumSize
	if len(b) < at+echoHeader+len(ticket{}) || b[0]>>4 != header.IPv6Version ||
		header.IPv6(b).NextHeader() != uint8(header.ICMPv6ProtocolNumber) || b[at] != byte(header.ICMPv6EchoReply) {
		return false
	}
	t := ticket(b[at+echoHeader:])
	s.mu.Lock()
	defer s.mu.Unlock()
	answered, ok := s.waiting[t]
	if ok {
		delete(s.waiting, t)
		answered <- struct{}{}
	}
	return ok
}
