package wan

import (
	"encoding/binary"
	"net/netip"
)

// Flags of a TCP segment (RFC 9293 section 3.1).
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

const (
	protocolTCP = 6
	header4     = 20 // octets, of an IPv4 header without options
	header6     = 40
	headerTCP   = 20 // without options
)

// flow says from where to where a segment goes.
type flow struct{ from, to netip.AddrPort }

func (f flow) reverse() flow { return flow{from: f.to, to: f.from} }

// segment is what a link knows of a TCP segment.
type segment struct {
	flow
	seq, ack uint32
	flags    byte
}

func (s segment) has(flags byte) bool { return s.flags&flags == flags }

// parseSegment reads the TCP segment in an IP packet, if there is one. It does
// not look behind IPv6 extension headers and into fragments.
func parseSegment(packet []byte) (segment, bool) {
	if len(packet) < header4 {
		return segment{}, false
	}
	switch packet[0] >> 4 {
	case 4:
		size := int(packet[0]&0xf) * 4
		fragment := binary.BigEndian.Uint16(packet[6:]) & 0x3fff // more to come, or an offset
		if size < header4 || packet[9] != protocolTCP || fragment != 0 {
			return segment{}, false
		}
		return parseTCP(packet, size, packet[12:16], packet[16:20])
	case 6:
		if len(packet) < header6 || packet[6] != protocolTCP {
			return segment{}, false
		}
		return parseTCP(packet, header6, packet[8:24], packet[24:40])
	}
	return segment{}, false
}

func parseTCP(packet []byte, at int, from, to []byte) (segment, bool) {
	if len(packet) < at+headerTCP {
		return segment{}, false
	}
	tcp := packet[at:]
	source, _ := netip.AddrFromSlice(from) // 4 or 16 octets
	destination, _ := netip.AddrFromSlice(to)
	return segment{
		flow: flow{
			from: netip.AddrPortFrom(source, binary.BigEndian.Uint16(tcp)),
			to:   netip.AddrPortFrom(destination, binary.BigEndian.Uint16(tcp[2:])),
		},
		seq:   binary.BigEndian.Uint32(tcp[4:]),
		ack:   binary.BigEndian.Uint32(tcp[8:]),
		flags: tcp[13],
	}, true
}

// packet makes an IP packet of a segment without payload and options. Both
// addresses are of one family.
func (s segment) packet() []byte {
	tcp := make([]byte, headerTCP)
	binary.BigEndian.PutUint16(tcp, s.from.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.to.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	tcp[12] = headerTCP / 4 << 4
	tcp[13] = s.flags
	binary.BigEndian.PutUint16(tcp[14:], 0xffff) // window

	from, to := s.from.Addr().AsSlice(), s.to.Addr().AsSlice()
	pseudo := []byte{0, protocolTCP, 0, headerTCP}
	binary.BigEndian.PutUint16(tcp[16:], checksum(from, to, pseudo, tcp))

	var ip []byte
	if s.from.Addr().Is4() {
		ip = make([]byte, header4)
		ip[0] = 4<<4 | header4/4
		ip[3] = header4 + headerTCP
		ip[8], ip[9] = 64, protocolTCP
		copy(ip[12:], from)
		copy(ip[16:], to)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	} else {
		ip = make([]byte, header6)
		ip[0] = 6 << 4
		ip[5] = headerTCP
		ip[6], ip[7] = protocolTCP, 64
		copy(ip[8:], from)
		copy(ip[24:], to)
	}
	return append(ip, tcp...)
}

// checksum is that of RFC 1071 over parts that each have an even length.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, p := range parts {
		for ; len(p) > 1; p = p[2:] {
			sum += uint32(binary.BigEndian.Uint16(p))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
