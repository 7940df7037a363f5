package sniff

import (
	"bytes"
	"encoding/binary"
)

const maxBER = 1 << 20 // longer first messages are of nothing that is looked for

// berLength reads the length of a BER value and gives how many bytes it takes
// itself: 0 if it is not all here, -1 if there is none like it.
func berLength(b []byte) (size, n int) {
	switch {
	case len(b) == 0:
		return 0, 0
	case b[0] < 0x80:
		return int(b[0]), 1
	case b[0] < 0x81 || b[0] > 0x84:
		return 0, -1
	}
	n = int(b[0]&0x7f) + 1
	if len(b) < n {
		return 0, 0
	}
	for _, c := range b[1:n] {
		size = size<<8 | int(c)
	}
	if size < 0 || size > maxBER {
		return 0, -1
	}
	return size, n
}

// ldap is the test for a sequence of a message number and a request.
func ldap(h head) answer {
	b := h.b
	if len(b) > 0 && b[0] != 0x30 {
		return no()
	}
	if len(b) < 2 {
		return want(2)
	}
	size, n := berLength(b[1:])
	at := 1 + n
	switch {
	case n < 0, n > 0 && size < 5:
		return no()
	case n == 0:
		return want(len(b) + 1)
	case len(b) < at+2:
		return want(at + 2).unless(len(b) > at && b[at] != 2)
	case b[at] != 2 || b[at+1] == 0 || b[at+1] > 4:
		return no()
	}
	at += 2 + int(b[at+1])
	if len(b) <= at {
		return want(at + 1)
	}
	switch b[at] {
	case 0x60, 0x63, 0x77, 0x66, 0x68, 0x4a, 0x42: // bind, search, extended, modify, add, delete, unbind
		return is(LDAP)
	case 0x04: // a community: SNMP on TCP
		return when(b[at-1] <= 3, SNMP)
	}
	return no()
}

// kerberosOfTCP is the test for a request behind its length, RFC 4120, section 7.2.2.
func kerberosOfTCP(h head) answer {
	b := h.b
	if len(b) > 0 && b[0] != 0 || len(b) > 1 && b[1] > 1 {
		return no()
	}
	if len(b) < 5 {
		return want(5)
	}
	size := int(binary.BigEndian.Uint32(b))
	if b[4] != 0x6a && b[4] != 0x6c || size < 16 {
		return no()
	}
	if len(b) < 20 {
		return want(20)
	}
	return when(isKerberos(b[4:], size), Kerberos)
}

// isKerberos looks for the version number, 5, in the 16 bytes at least of an
// AS or TGS request, or the error or answer to one, of the given size.
func isKerberos(b []byte, size int) bool {
	if bytes.IndexByte([]byte("\x6a\x6b\x6c\x6d\x7e"), b[0]) < 0 {
		return false
	}
	length, n := berLength(b[1:])
	if n <= 0 || 1+n+length != size || b[1+n] != 0x30 {
		return false
	}
	_, m := berLength(b[2+n:])
	at := 2 + n + m
	return m > 0 && at+5 <= len(b) && (string(b[at+1:at+5]) == "\x03\x02\x01\x05") && (b[at] == 0xa1 || b[at] == 0xa0)
}
