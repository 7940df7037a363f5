package wglink

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// join makes a packet for the stack of the first packet in bufs, and of those
// that go on where it ends: TCP segments of one flow, one after the other, with
// equal headers. It says how many it has used, at least one. p is nil if the
// first is no IP packet.
//
// A joined packet's checksum is made of those of its parts, so the stack
// verifies it as if nothing had been joined.
func join(bufs [][]byte, offset int) (p *stack.PacketBuffer, version tcpip.NetworkProtocolNumber, n int) {
	first := bufs[0][offset:]
	if len(first) == 0 {
		return nil, 0, 1
	}
	switch first[0] >> 4 {
	case header.IPv4Version:
		version = header.IPv4ProtocolNumber
	case header.IPv6Version:
		version = header.IPv6ProtocolNumber
	default:
		return nil, 0, 1
	}
	n = 1
	var r run
	if r.begin(first) {
		for n < len(bufs) && r.extend(bufs[n][offset:]) {
			n++
		}
	}
	if n == 1 {
		return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(buffer.NewViewWithData(first))}), version, n
	}
	// The stack copies a piece of memory whole when it looks at headers in it
	// and somebody else holds it too. So the headers have one of their own.
	head, payload := buffer.NewViewWithData(first[:r.head]), buffer.NewView(r.size-r.head)
	r.address(head.AsSlice())
	for _, b := range bufs[:n] {
		_, _ = payload.Write(b[offset+r.head:]) // there is room for all
	}
	whole, rest := buffer.MakeWithView(head), buffer.MakeWithView(payload)
	whole.Merge(&rest)
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: whole}), version, n
}

// run is a number of TCP segments that can be joined.
type run struct {
	first []byte
	ip    int    // how long the IP header is
	head  int    // how long both headers are
	size  int    // of the joined packet
	next  uint32 // the sequence number that goes on
	piece int    // payload of the first segment
	over  bool   // nothing may follow
	flags byte   // of the last segment

	// The sum over all payloads: what the checksums say that it is.
	payload uint16
}

// begin tells whether anything may be joined to a packet.
func (r *run) begin(b []byte) bool {
	ip, ok := tcpAt(b)
	if !ok {
		return false
	}
	tcp := header.TCP(b[ip:])
	head := ip + int(tcp.DataOffset())
	if tcp.DataOffset() < header.TCPMinimumSize || head >= len(b) || tcp.Flags() != header.TCPFlagAck {
		return false // short, without payload, or special
	}
	*r = run{
		first: b,
		ip:    ip,
		head:  head,
		size:  len(b),
		next:  tcp.SequenceNumber() + uint32(len(b)-head),
		piece: len(b) - head,
		flags: b[ip+tcpFlags],
	}
	r.payload = r.sum(b)
	return (len(b)-head)%2 == 0
}

// extend adds a packet if it goes on where the run ends.
func (r *run) extend(b []byte) bool {
	more := len(b) - r.head
	if r.over || more <= 0 || more > r.piece || r.size+more > maxJoined {
		return false
	}
	if ip, ok := tcpAt(b); !ok || ip != r.ip || !sameIP(b[:ip], r.first[:ip]) {
		return false
	}
	a, c := r.first[r.ip:r.head], b[r.ip:r.head]
	// Ports, acknowledgement, header length, window, urgent pointer, options.
	if !bytes.Equal(a[:4], c[:4]) || !bytes.Equal(a[8:13], c[8:13]) || !bytes.Equal(a[14:16], c[14:16]) || !bytes.Equal(a[18:], c[18:]) {
		return false
	}
	flags := header.TCPFlags(c[tcpFlags])
	if flags&^header.TCPFlagPsh != header.TCPFlagAck || header.TCP(c).SequenceNumber() != r.next {
		return false
	}
	r.payload = checksum.Combine(r.payload, r.sum(b))
	r.flags = byte(flags)
	r.size += more
	r.next += uint32(more)
	r.over = more < r.piece || more%2 != 0 || flags != header.TCPFlagAck
	return true
}

// sum is what the payload of b sums up to if its checksum is right.
func (r *run) sum(b []byte) uint16 {
	rest := checksum.Combine(pseudo(b, len(b)-r.ip), checksum.Checksum(b[r.ip:r.head], 0))
	return ^rest
}

// address makes the first packet's headers in b those of the joined packet.
func (r *run) address(b []byte) {
	if r.first[0]>>4 == header.IPv4Version {
		ip := header.IPv4(b)
		// What is wrong with the checksum stays wrong.
		old := ip.TotalLength()
		ip.SetTotalLength(uint16(r.size))
		ip.SetChecksum(^checksum.Combine(checksum.Combine(^ip.Checksum(), ^old), uint16(r.size)))
	} else {
		header.IPv6(b).SetPayloadLength(uint16(r.size - r.ip))
	}
	tcp := b[r.ip:r.head]
	tcp[tcpFlags] = r.flags
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], 0)
	sum := checksum.Combine(checksum.Combine(pseudo(b, r.size-r.ip), checksum.Checksum(tcp, 0)), r.payload)
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], ^sum)
}

// pseudo is the sum of the pseudo header that the checksum of a TCP segment of
// length bytes begins with. b begins with the IP header.
func pseudo(b []byte, length int) uint16 {
	if b[0]>>4 == header.IPv4Version {
		ip := header.IPv4(b)
		return header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(length))
	}
	ip := header.IPv6(b)
	return header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(length))
}

// tcpAt tells whether b is an IP packet that is nothing but a TCP segment, and
// where that begins.
func tcpAt(b []byte) (at int, ok bool) {
	if len(b) < header.IPv4MinimumSize {
		return 0, false
	}
	if b[0]>>4 == header.IPv4Version {
		ip := header.IPv4(b)
		at = header.IPv4MinimumSize // no options
		ok = int(ip.HeaderLength()) == at && int(ip.TotalLength()) == len(b) && ip.Protocol() == uint8(header.TCPProtocolNumber) &&
			!ip.More() && ip.FragmentOffset() == 0
	} else if at = header.IPv6MinimumSize; len(b) >= at {
		ip := header.IPv6(b)
		ok = int(ip.PayloadLength())+at == len(b) && ip.NextHeader() == uint8(header.TCPProtocolNumber)
	}
	return at, ok && len(b) >= at+header.TCPMinimumSize
}

// sameIP tells whether two IP headers differ in nothing but the length, the
// identification and the checksum.
func sameIP(a, b []byte) bool {
	if a[0]>>4 == header.IPv4Version {
		return bytes.Equal(a[:2], b[:2]) && bytes.Equal(a[6:10], b[6:10]) && bytes.Equal(a[12:], b[12:])
	}
	return bytes.Equal(a[:4], b[:4]) && bytes.Equal(a[6:], b[6:])
}
