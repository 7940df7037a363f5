package sniff

import (
	"bytes"
	"encoding/binary"
)

// tpkt is the test for what RFC 1006 packets carry: RDP, and H.323's call
// signalling and control; and for RTMP, which may look like them at first.
func tpkt(h head) answer {
	b := h.b
	switch {
	case len(b) == 0:
		return want(1)
	case b[0] != 3:
		return no()
	case len(b) < 9:
		return want(9)
	}
	if b[1] == 0 && int(b[2])<<8+int(b[3]) >= 7 {
		if a := inTPKT(b); a.grade != never {
			return a
		}
	}
	const size = 1 + 1536 // RTMP's version and its first block
	switch {
	case binary.BigEndian.Uint32(b[5:]) != 0 && !isFlash(b[5:9]):
		return no()
	case len(b) < size:
		return looksLike(RTMP, size)
	}
	return is(RTMP)
}

// isFlash tells whether four bytes are a version of the Flash player, such as 9.0.124.2.
// Clients that claim to be one have it where Adobe's specification has zeros.
func isFlash(b []byte) bool {
	return (3 <= b[0] && b[0] < 64 || b[0] == 0x80) && b[1] < 10 && b[3] < 64
}

// inTPKT looks behind the header of at least 9 bytes of a packet.
func inTPKT(b []byte) answer {
	size := int(b[2])<<8 | int(b[3])
	switch {
	case b[4] == 8 && b[5]&0x7f <= 3: // Q.931
		at := 6 + int(b[5]&0x7f)
		if at >= 9 {
			return when(len(b) > at, H225).orWant(len(b) > at, at+1)
		}
		return when(isQ931(b[at]), H225)
	case int(b[4]) == size-5 && (b[5] == 0xe0 || b[5] == 0xd0): // a COTP connection
		return cotp(b, size)
	case size >= 11 && size <= 2048 && b[4] == 2: // terminalCapabilitySet
		const oid = "\x06\x00\x08\x81\x75\x00"
		if len(b) < 13 {
			return want(13)
		}
		return when(string(b[7:13]) == oid, H245)
	case size <= 16 && b[4] == 1 && b[5] == 0: // masterSlaveDetermination
		return when(binary.BigEndian.Uint32(b[5:]) != 0, H245)
	}
	return no()
}

// orWant waits for more instead, unless enough is here.
func (a answer) orWant(enough bool, need int) answer {
	if !enough {
		return want(need)
	}
	return a
}

// isQ931 tells whether a message is one of those of H.225.
func isQ931(message byte) bool {
	return bytes.IndexByte([]byte("\x01\x02\x03\x05\x07\x0d\x0f\x5a\x62\x6e\x75\x7b\x7d"), message) >= 0
}

// cotp tells RDP from the other users of COTP.
func cotp(b []byte, size int) answer {
	if size == 11 {
		return is(TPKT).orWant(len(b) >= 11, 11)
	}
	if len(b) < 14 {
		return want(14)
	}
	switch {
	case b[11] == 1 && b[13] == 8, b[11] == 2 && b[5] == 0xd0, string(b[11:14]) == "Coo", string(b[11:14]) == "mst":
		return is(RDP)
	}
	return is(TPKT)
}

// postgres is the test for a start-up packet and the requests in its place.
func postgres(h head) answer {
	b := h.b
	if len(b) > 0 && b[0] != 0 || len(b) > 1 && b[1] != 0 {
		return no()
	}
	if len(b) < 8 {
		return want(8)
	}
	size, code := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	switch {
	case size == 8 && (code == 80877103 || code == 80877104): // TLS, GSS
	case size == 16 && code == 80877102: // cancel
	case size > 8 && size <= 10000 && code>>16 == 3 && code&0xffff <= 2:
	default:
		return no()
	}
	return is(PostgreSQL)
}

// mysql is the test for a server's greeting, or its refusal.
func mysql(h head) answer {
	b := h.b
	if len(b) > 3 && (b[3] != 0 || uint24LE(b) < 5 || uint24LE(b) > 1024) {
		return no()
	}
	switch {
	case len(b) < 6:
		return want(6)
	case b[4] == 10 && '0' <= b[5] && b[5] <= '9', b[4] == 0xff && len(b) > 6 && 3 <= b[6] && b[6] <= 19:
		return is(MySQL)
	case b[4] == 0xff && len(b) == 6:
		return want(7)
	}
	return no()
}

func uint24LE(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// socks is the test for what adit itself speaks at its door.
func socks(h head) answer {
	b := h.b
	switch {
	case len(b) < 2:
		return want(2).unless(len(b) == 1 && b[0] != 4 && b[0] != 5)
	case b[0] == 5:
		return socks5(b)
	case b[0] != 4 || b[1] != 1 && b[1] != 2:
		return no()
	case len(b) < 9:
		return want(9)
	}
	const maxUser = 64
	user := b[8:min(len(b), 8+maxUser)]
	for _, c := range user {
		switch {
		case c == 0:
			return is(SOCKS)
		case c < ' ' || c > '~':
			return no()
		}
	}
	return want(len(b) + 1).unless(len(user) == maxUser)
}

func (a answer) unless(excluded bool) answer {
	if excluded {
		return no()
	}
	return a
}

// socks5 takes offers of methods that there are, RFC 1928, section 3.
func socks5(b []byte) answer {
	n := int(b[1])
	if n == 0 || n > 10 {
		return no()
	}
	methods := b[2:min(len(b), 2+n)]
	for _, m := range methods {
		if m > 9 && m < 0x80 {
			return no()
		}
	}
	return is(SOCKS).orWant(len(methods) == n, 2+n)
}

// mqtt is the test for CONNECT.
func mqtt(h head) answer {
	b := h.b
	if len(b) == 0 {
		return want(1)
	}
	if b[0] != 0x10 {
		return no()
	}
	at := 1
	for ; at < 5; at++ {
		if len(b) <= at {
			return want(at + 1)
		}
		if b[at] < 0x80 {
			break
		}
	}
	if at == 5 {
		return no()
	}
	for _, magic := range [...]string{"\x00\x04MQTT\x04", "\x00\x04MQTT\x05", "\x00\x06MQIsdp\x03"} {
		switch begins(b[at+1:], magic) {
		case sure:
			return is(MQTT)
		case perhaps:
			return want(len(b) + 1)
		}
	}
	return no()
}

// redis is the test for a command as an array of strings.
func redis(h head) answer {
	const maxDigits = 7
	at := 1
	for at < len(h.b) && at <= maxDigits && '0' <= h.b[at] && h.b[at] <= '9' {
		at++
	}
	switch {
	case len(h.b) == 0:
		return want(1)
	case h.b[0] != '*':
		return no()
	case at == len(h.b):
		return want(at + 1)
	case at == 1:
		return no()
	}
	switch begins(h.b[at:], "\r\n$") {
	case sure:
		return is(Redis)
	case perhaps:
		return want(at + 3)
	}
	return no()
}

// telnet is the test for a negotiation of options, RFC 854.
func telnet(h head) answer {
	b := h.b
	for i, c := range b[:min(len(b), 3)] {
		if i == 0 && c != 0xff || i == 1 && (c < 0xfb || c == 0xff) || i == 2 && c > 49 && c < 0x80 {
			return no()
		}
	}
	return is(Telnet).orWant(len(b) >= 3, 3)
}

// openVPN is the test for the first packet of a client with a key of its own for
// it. Its length and its first byte are all that it shows.
func openVPN(h head) answer {
	b := h.b
	switch {
	case len(b) < 3:
		return want(3).unless(len(b) > 0 && b[0] != 0)
	case b[0] != 0 || b[1] < 14 || b[2] != 0x38 && b[2] != 0x50:
		return no()
	case len(b) < 2+int(b[1]):
		return want(2 + int(b[1]))
	}
	return looksLike(OpenVPN, text)
}
