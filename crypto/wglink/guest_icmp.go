package wglink

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// hops is how far packets to guests may go: there may be a net behind one.
	hops = 64

	// maxAsking is how many echoes and DNS messages of a guest may wait for an
	// answer, and askTimeout for how long.
	maxAsking  = 128
	askTimeout = 10 * time.Second

	// maxQuoted is how much of a packet that did not arrive is sent back: an error
	// fits any path (RFC 1812 section 4.3.2.3).
	maxQuoted = 576 - header.IPv4MinimumSize - header.ICMPv4MinimumSize

	echoHeader = 8 // type, code, checksum, identifier, sequence number (RFC 792)
)

// transmit sends a message to a guest. It is lost where there is no room for it.
func (h *hall) transmit(protocol tcpip.TransportProtocolNumber, source, target netip.Addr, message []byte) {
	var packets []*stack.PacketBuffer
	size := h.cable.sizes.mtu
	if g := h.cable.sizes.of(target); g != nil {
		size = g.use(header.IPv6MinimumSize + len(message))
	}
	for _, b := range ipPackets(size, protocol, source, target, h.ids.Add(1), message) {
		packets = append(packets, stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)}))
	}
	h.cable.offer(packets...)
	for _, p := range packets {
		p.DecRef()
	}
}

// echo4 and echo6 take what the stack knows no use for: echo requests that it would
// answer itself, and answers that nobody has asked for.
func (h *hall) echo4(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	m := icmpMessage(p)
	if len(m) >= echoHeader && m[0] == byte(header.ICMPv4Echo) && checksum.Checksum(m, 0) == 0xffff {
		h.echo(id, m, byte(header.ICMPv4EchoReply))
	}
	return true
}

func (h *hall) echo6(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	m := icmpMessage(p)
	if len(m) >= echoHeader && m[0] == byte(header.ICMPv6EchoRequest) { // the stack has verified the checksum
		h.echo(id, m, byte(header.ICMPv6EchoReply))
	}
	return true
}

// icmpMessage copies an ICMP message.
func icmpMessage(p *stack.PacketBuffer) []byte {
	v := stack.PayloadSince(p.TransportHeader())
	defer v.Release()
	return append([]byte(nil), v.AsSlice()...)
}

// echo carries out an echo request, and makes it its answer.
func (h *hall) echo(id stack.TransportEndpointID, m []byte, reply byte) {
	source, target := fromStack(id.RemoteAddress, 0).Addr(), fromStack(id.LocalAddress, 0).Addr()
	v := h.visitor(source)
	switch {
	case v == nil:
	case h.isOwn(target):
		h.answerEcho(source, target, m, reply)
	case v.ask():
		go func() {
			defer v.answered()
			ctx, cancel := context.WithTimeout(v.ctx, askTimeout)
			defer cancel()
			flow := v.flow(netip.AddrPortFrom(source, 0), netip.AddrPortFrom(target, 0))
			err := h.host.Echo(ctx, flow, m[echoHeader:])
			if err == nil {
				h.answerEcho(source, target, m, reply)
			} else if why, ok := errors.AsType[Reason](err); ok {
				h.unreachable(flow, why, m)
			}
		}()
	}
}

func (h *hall) answerEcho(source, target netip.Addr, m []byte, reply byte) {
	m[0] = reply
	h.transmit(icmpOf(source), target, source, sumUp(target, source, m))
}

// icmpOf is the ICMP that goes with an address.
func icmpOf(a netip.Addr) tcpip.TransportProtocolNumber {
	if a.Is4() {
		return header.ICMPv4ProtocolNumber
	}
	return header.ICMPv6ProtocolNumber
}

// sumUp sets the checksum of an ICMP message.
func sumUp(source, target netip.Addr, m []byte) []byte {
	m[2], m[3] = 0, 0
	initial := uint16(0)
	if source.Is6() {
		initial = header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, toStackAddr(source), toStackAddr(target), uint16(len(m)))
	}
	binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, initial))
	return m
}

// unreachable tells a guest why something that it wants does not work. message is
// what it has sent, or enough of it.
func (h *hall) unreachable(f Flow, why Reason, message []byte) {
	h.lost(f, Loss{To: f.Target, Reason: why}, message)
}

// lost tells a guest what became of a message of its own.
func (h *hall) lost(f Flow, l Loss, message []byte) {
	protocol := icmpOf(f.Source.Addr())
	if f.Source.Port() != 0 {
		protocol = header.UDPProtocolNumber
		if len(message) >= header.TCPMinimumSize {
			protocol = header.TCPProtocolNumber
		}
	}
	h.report(l, ipPacket(protocol, f.Source.Addr(), f.Target.Addr(), 0, message[:min(len(message), maxQuoted)], 0, false))
}

// prohibit tells a guest that a packet of its own is not let through.
func (h *hall) prohibit(b []byte) {
	protocol, first := tcpip.TransportProtocolNumber(header.IPv6(b).NextHeader()), true
	if b[0]>>4 == header.IPv4Version {
		ip := header.IPv4(b)
		protocol, first = ip.TransportProtocol(), ip.FragmentOffset() == 0
	}
	// Nothing is said about ICMP messages: they may be errors themselves (RFC 1122
	// section 3.2.2).
	if first && (protocol == header.TCPProtocolNumber || protocol == header.UDPProtocolNumber) {
		h.report(Loss{Reason: NotAllowed}, b)
	}
}

// report sends a guest an ICMP error about a packet of its own.
func (h *hall) report(l Loss, packet []byte) {
	source, target, ok := addresses(packet)
	if !ok || l.Reason <= 0 || l.Reason > TooBig {
		return
	}
	reporter := l.Reporter.Unmap()
	if !usable(reporter) || reporter.Is4() != source.Is4() {
		reporter = h.own(source)
	}
	if !reporter.IsValid() {
		reporter = target
	}
	m := make([]byte, echoHeader, echoHeader+maxQuoted)
	if source.Is4() {
		m[0], m[1] = byte(header.ICMPv4DstUnreachable), [...]byte{
			Refused: byte(header.ICMPv4PortUnreachable), NotAllowed: byte(header.ICMPv4AdminProhibited), NetworkUnreachable: byte(header.ICMPv4NetUnreachable),
			HostUnreachable: byte(header.ICMPv4HostUnreachable), TooBig: byte(header.ICMPv4FragmentationNeeded),
		}[l.Reason]
	} else {
		m[0], m[1] = byte(header.ICMPv6DstUnreachable), [...]byte{
			Refused: byte(header.ICMPv6PortUnreachable), NotAllowed: byte(header.ICMPv6Prohibited), NetworkUnreachable: byte(header.ICMPv6NetworkUnreachable),
			HostUnreachable: byte(header.ICMPv6AddressUnreachable), TooBig: 0,
		}[l.Reason]
	}
	if l.Reason == TooBig {
		mtu := min(max(l.MTU, 0), maxJoined)
		if source.Is6() {
			m[0] = byte(header.ICMPv6PacketTooBig)
			mtu = max(mtu, header.IPv6MinimumMTU)
		}
		binary.BigEndian.PutUint32(m[4:], uint32(mtu)) // RFC 1191 section 4, RFC 4443 section 3.2
	}
	m = append(m, packet[:min(len(packet), maxQuoted)]...)
	h.transmit(icmpOf(source), reporter, source, sumUp(reporter, source, m))
}
