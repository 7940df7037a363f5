package sniff

import "encoding/binary"

// mediaRun follows the packets of one source of RTP.
type mediaRun struct {
	source uint32
	number uint16
	length int
}

// next counts how many packets in a row have the same source and rising numbers.
// b has at least a header.
func (m *mediaRun) next(b []byte) int {
	number, source := binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint32(b[8:])
	if step := number - m.number; m.length > 0 && source == m.source && 0 < step && step < 100 {
		m.length++
	} else {
		m.length = 1
	}
	m.source, m.number = source, number
	return m.length
}

// looksRTP tells whether a datagram may be one of RFC 3550.
func looksRTP(b []byte, _ uint16) (Protocol, grade) {
	const header = 12
	if len(b) < header || b[0]&0xc0 != 0x80 || len(b) < header+4*int(b[0]&15) {
		return "", never
	}
	if kind := b[1] & 0x7f; kind > 34 && kind < 96 {
		return "", never
	}
	return RTP, likely
}

// isRTCP tells whether all of a datagram is packets of RFC 3550, section 6, or
// RFC 4585.
func isRTCP(b []byte, _ uint16) (Protocol, grade) {
	first := true
	for len(b) > 0 {
		if len(b) < 8 && !first || len(b) < 4 || b[0]&0xc0 != 0x80 || b[1] < 192 || b[1] > 223 {
			return "", never
		}
		if first && b[1] != 200 && b[1] != 201 && b[1] != 205 && b[1] != 206 {
			return "", never
		}
		n := 4 * (int(binary.BigEndian.Uint16(b[2:])) + 1)
		if n < 8 || n > len(b) {
			return "", never
		}
		b, first = b[n:], false
	}
	return RTCP, sure
}
