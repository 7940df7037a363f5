package wglink

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxPorts is how many associations a guest may have. When it has them all, a
	// new one takes the place of the one that has been idle for longest, if that is
	// longer than spareAfter.
	maxPorts   = 1024
	spareAfter = 10 * time.Second

	// An association ends when it has been idle for portTimeout (RFC 4787 section
	// 4.3 asks for two minutes), or for oneWayTimeout if nothing has come back yet or
	// it has spoken to nobody but name servers.
	portTimeout   = 2 * time.Minute
	oneWayTimeout = 30 * time.Second

	// maxPayload is the longest that UDP over IPv4 has room for.
	maxPayload = 1<<16 - 1 - header.IPv4MinimumSize - header.UDPMinimumSize
)

// Port is an inner address and port that a guest sends datagrams from. It takes
// datagrams for the guest from anywhere, until it ends. Its methods are safe for
// concurrent use, never wait, and do nothing after the end.
type Port struct {
	Flow

	visitor     *visitor
	association Association // set before anybody else sees the port at the guest's end
	cancel      context.CancelFunc

	last   atomic.Int64 // when it was last used, in Unix nanoseconds
	back   atomic.Bool  // something has come back
	beyond atomic.Bool  // it has spoken to others than name servers
	ended  atomic.Bool
	ending sync.Once
}

// datagram takes a UDP packet from a guest.
func (h *hall) datagram(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	source, target := fromStack(id.RemoteAddress, id.RemotePort), fromStack(id.LocalAddress, id.LocalPort)
	v := h.visitor(source.Addr())
	payload, ok := udpPayload(id, p)
	switch {
	case v == nil || !ok || source.Port() == 0 || target.Port() == 0:
	case !h.isOwn(target.Addr()):
		v.send(source, target, payload)
	case target.Port() == dnsPort:
		h.resolve(v, source, target, payload)
	default:
		h.unreachable(v.flow(source, target), Refused, udpSynopsis(source, target))
	}
	return true
}

// udpPayload gives what a UDP packet carries, which is good while the packet is
// there. It fails if the packet is garbled.
func udpPayload(id stack.TransportEndpointID, p *stack.PacketBuffer) ([]byte, bool) {
	udp := header.UDP(p.TransportHeader().Slice())
	data := p.Data()
	if len(udp) < header.UDPMinimumSize {
		return nil, false
	}
	length, sum := header.UDPValid(udp, data.Checksum, uint16(data.Size()), p.NetworkProtocolNumber, id.RemoteAddress, id.LocalAddress, false)
	if !length || !sum || udp.Checksum() == 0 && p.NetworkProtocolNumber == header.IPv6ProtocolNumber {
		return nil, false // RFC 8200 section 8.1 wants a checksum
	}
	return data.PullUp(int(udp.Length()) - header.UDPMinimumSize)
}

// send sends a guest's datagram through its association, or a new one.
func (v *visitor) send(source, target netip.AddrPort, payload []byte) {
	p := v.port(source)
	if p == nil {
		if p = v.open(source, target); p == nil {
			return
		}
	}
	p.last.Store(time.Now().UnixNano())
	if target.Port() != dnsPort {
		p.beyond.Store(true)
	}
	p.association.Send(payload, target)
}

func (v *visitor) port(source netip.AddrPort) *Port {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ports[source]
}

// open makes an association. It gives nil if there is no room or the host does not
// want it. It is called where the guest's packets come in, one at a time.
func (v *visitor) open(source, target netip.AddrPort) *Port {
	if !v.makeRoom() {
		v.hall.drops.limit.Add(1)
		return nil
	}
	p := &Port{Flow: v.flow(source, target), visitor: v}
	ctx, cancel := context.WithCancel(v.ctx)
	p.cancel = cancel
	association, err := v.hall.host.Associate(ctx, p)
	if err != nil {
		cancel()
		if why, ok := errors.AsType[Reason](err); ok {
			v.hall.unreachable(p.Flow, why, udpSynopsis(source, target))
		}
		return nil
	}
	p.association = association
	p.last.Store(time.Now().UnixNano())
	if !v.note(p) {
		p.shut()
		return nil
	}
	return p
}

// makeRoom tells whether there is room for one more association.
func (v *visitor) makeRoom() bool {
	now := time.Now()
	v.mu.Lock()
	if v.gone || len(v.ports) < maxPorts {
		defer v.mu.Unlock()
		return !v.gone
	}
	var oldest *Port
	if now.After(v.crowded) { // or it would be looked for in vain
		for _, p := range v.ports {
			if oldest == nil || p.last.Load() < oldest.last.Load() {
				oldest = p
			}
		}
		v.crowded = time.Unix(0, oldest.last.Load()).Add(spareAfter)
	}
	v.mu.Unlock()
	if oldest == nil || oldest.idle(now) <= spareAfter {
		return false
	}
	oldest.Close()
	return true
}

// note notes down an association, unless it is over or the guest is gone.
func (v *visitor) note(p *Port) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone || p.ended.Load() || len(v.ports) >= maxPorts {
		return false
	}
	if v.ports == nil {
		v.ports = map[netip.AddrPort]*Port{}
	}
	v.ports[p.Source] = p
	v.peer.flows.Add(1)
	return true
}

// sweepPorts ends associations that have been idle for long.
func (v *visitor) sweepPorts(now time.Time) {
	var out []*Port
	v.mu.Lock()
	for _, p := range v.ports {
		limit := oneWayTimeout
		if p.back.Load() && p.beyond.Load() {
			limit = portTimeout
		}
		if p.idle(now) > limit {
			out = append(out, p)
		}
	}
	v.mu.Unlock()
	for _, p := range out {
		p.Close()
	}
}

func (p *Port) idle(now time.Time) time.Duration {
	return time.Duration(now.UnixNano() - p.last.Load())
}

// Deliver sends a datagram to the guest, from any address of the same version of
// IP, with at most 65,507 bytes of payload. It keeps nothing of payload. What there
// is no room for is lost.
func (p *Port) Deliver(payload []byte, from netip.AddrPort) {
	a := from.Addr().Unmap()
	if p.ended.Load() || a.Is4() != p.Source.Addr().Is4() || len(payload) > maxPayload {
		return
	}
	p.last.Store(time.Now().UnixNano())
	p.back.Store(true)
	h := p.visitor.hall
	h.transmit(header.UDPProtocolNumber, a, p.Source.Addr(), udpMessage(netip.AddrPortFrom(a, from.Port()), p.Source, payload))
}

// Lose tells the guest that a datagram did not arrive.
func (p *Port) Lose(l Loss) {
	to := netip.AddrPortFrom(l.To.Addr().Unmap(), l.To.Port())
	if p.ended.Load() || to.Addr().Is4() != p.Source.Addr().Is4() {
		return
	}
	f := p.Flow
	f.Target = to
	p.visitor.hall.lost(f, l, udpSynopsis(p.Source, to))
}

// Close ends the association. The guest's next datagram begins another one.
func (p *Port) Close() {
	v := p.visitor
	p.ended.Store(true)
	v.mu.Lock()
	known := v.ports[p.Source] == p
	if known {
		delete(v.ports, p.Source)
		v.peer.flows.Add(-1)
	}
	v.mu.Unlock()
	if known {
		p.shut()
	}
}

// shut closes the association, once it is in no table.
func (p *Port) shut() {
	p.ended.Store(true)
	p.ending.Do(func() {
		p.cancel()
		p.association.Close()
	})
}

// udpMessage makes a UDP message.
func udpMessage(from, to netip.AddrPort, payload []byte) []byte {
	b := make(header.UDP, header.UDPMinimumSize+len(payload))
	b.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(len(b))})
	copy(b[header.UDPMinimumSize:], payload)
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, toStackAddr(from.Addr()), toStackAddr(to.Addr()), uint16(len(b)))
	sum := ^checksum.Checksum(b, pseudo)
	if sum == 0 {
		sum = 0xffff // zero says that there is none (RFC 768)
	}
	b.SetChecksum(sum)
	return b
}

// udpSynopsis is a guest's datagram as far as it has to be known to say what
// became of it.
func udpSynopsis(source, target netip.AddrPort) []byte {
	return udpMessage(source, target, nil)
}
