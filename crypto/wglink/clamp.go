package wglink

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// clampMSS has a TCP header ask for segments of at most so many bytes of payload, if it is a
// SYN's and says anything of that (RFC 9293 section 3.7.1). The checksum is right after it
// if it was before.
func clampMSS(tcp header.TCP, most int) {
	if len(tcp) < header.TCPMinimumSize || !tcp.Flags().Contains(header.TCPFlagSyn) {
		return
	}
	for at := header.TCPMinimumSize; at < len(tcp); {
		kind := tcp[at]
		if kind == header.TCPOptionNOP {
			at++
			continue
		}
		if kind == header.TCPOptionEOL || at+1 >= len(tcp) || tcp[at+1] < 2 || at+int(tcp[at+1]) > len(tcp) {
			return
		}
		if kind == header.TCPOptionMSS && tcp[at+1] == header.TCPOptionMSSLength {
			lower(tcp, at+2, uint16(max(most, 0)))
			return
		}
		at += int(tcp[at+1])
	}
}

// lower makes the number at a place in a TCP header no larger than most, and mends its checksum
// (RFC 1624). Options need not begin at an even place.
func lower(tcp header.TCP, at int, most uint16) {
	old := binary.BigEndian.Uint16(tcp[at:])
	if old <= most {
		return
	}
	binary.BigEndian.PutUint16(tcp[at:], most)
	if at%2 == 1 {
		old, most = old<<8|old>>8, most<<8|most>>8
	}
	tcp.SetChecksum(^checksum.Combine(checksum.Combine(^tcp.Checksum(), ^old), most))
}
