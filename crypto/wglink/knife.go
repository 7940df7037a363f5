package wglink

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Places in a TCP header (RFC 9293 section 3.1).
const (
	tcpSequence = 4
	tcpFlags    = 13
	tcpChecksum = 16
)

// knife cuts what the stack sends into IP packets no longer than the MTU. The
// zero value is idle.
type knife struct {
	packet *stack.PacketBuffer // nil while idle
	view   *buffer.View        // where in packet the payload goes on
	from   int                 // in view

	head    []byte // the IP and TCP headers, as the stack has made them
	ip      int    // how long the IP header is
	left    int    // bytes of payload not yet cut off
	segment int    // bytes of payload in a piece
	offset  int    // bytes of payload cut off
	finish  bool   // the stack has left the checksum to us
	room    [128]byte
}

func (k *knife) idle() bool { return k.packet == nil }

// lay takes a packet to cut, as fits whom it is for. It keeps the reference that the caller has.
func (k *knife) lay(p *stack.PacketBuffer, by *sizes) {
	ip, tcp := p.NetworkHeader().Slice(), p.TransportHeader().Slice()
	k.packet = p
	k.head = append(append(k.room[:0], ip...), tcp...)
	k.ip = len(ip)
	k.offset = 0
	k.left = p.Size() - len(k.head)
	k.segment = k.left
	gso := p.GSOOptions
	k.finish = gso.Type != stack.GSONone && gso.NeedsCsum
	limit := by.fit(k.head[:k.ip], k.head[k.ip:], p.Size())
	if k.finish && gso.MSS > 0 {
		k.segment = min(k.left, int(gso.MSS), limit-len(k.head))
	}
	views, skip := p.AsViewList()
	k.view, k.from = views.Front(), skip+len(k.head)
}

// cut writes the next piece to b and gives its length. After the last piece the
// knife is idle.
func (k *knife) cut(b []byte) int {
	n := copy(b, k.head)
	size := n + k.payload(b[n:n+min(k.left, k.segment)])
	k.left -= size - n
	if k.finish {
		k.address(b[:size])
	}
	k.offset += size - n
	if k.left == 0 {
		k.packet.DecRef()
		k.packet, k.view = nil, nil
	}
	return size
}

// payload copies what comes next.
func (k *knife) payload(b []byte) (n int) {
	for n < len(b) {
		s := k.view.AsSlice()
		if k.from >= len(s) {
			k.from -= len(s)
			k.view = k.view.Next()
			continue
		}
		m := copy(b[n:], s[k.from:])
		k.from += m
		n += m
	}
	return n
}

// address makes a piece's headers right: lengths, place, flags, checksums.
func (k *knife) address(b []byte) {
	tcp := b[k.ip:]
	if b[0]>>4 == header.IPv4Version {
		ip := header.IPv4(b)
		ip.SetTotalLength(uint16(len(b)))
		ip.SetID(ip.ID() + uint16(k.offset/max(k.segment, 1)))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		header.IPv6(b).SetPayloadLength(uint16(len(tcp)))
	}
	sequence := tcp[tcpSequence:]
	binary.BigEndian.PutUint32(sequence, binary.BigEndian.Uint32(sequence)+uint32(k.offset))
	if k.left > 0 {
		tcp[tcpFlags] &^= byte(header.TCPFlagFin | header.TCPFlagPsh)
	}
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], 0)
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], ^checksum.Checksum(tcp, pseudo(b, len(tcp))))
}
