package socks

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/mmsg"
)

// maxSegments is how many packets the kernel makes of one at most.
const maxSegments = 64

// packetsOf gives what reads and writes a socket's packets.
func packetsOf(c *net.UDPConn, raw syscall.RawConn, local netip.Addr) packets {
	if local.Zone() != "" {
		return newNetPackets(c, raw, local)
	}
	return mmsg.New(raw)
}

// segments tells whether the kernel cuts one long write into packets for the app (UDP
// segmentation offload), which costs a fraction of as many writes. Over loopback no MTU
// stands in the way.
func segments(raw syscall.RawConn, local netip.Addr) bool {
	if !local.IsLoopback() {
		return false
	}
	known := false
	err := raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		known = err == nil
	})
	return err == nil && known
}

// join makes one message of each run of packets that have the same size, but for the
// last, which may be shorter. The packets lie one behind the other in memory.
func join(messages []ipv4.Message) []ipv4.Message {
	joined := 0
	for rest := messages; len(rest) > 0; joined++ {
		first := rest[0].Buffers[0]
		total, n := len(first), 1
		for n < min(len(rest), maxSegments) {
			next := len(rest[n].Buffers[0])
			if next > len(first) || total+next > maxUDP {
				break
			}
			total, n = total+next, n+1
			if next < len(first) {
				break
			}
		}
		m := &messages[joined]
		m.Buffers[0], m.OOB = first[:total], m.OOB[:0]
		if n > 1 {
			m.OOB = appendSegmentSize(m.OOB, len(first))
		}
		rest = rest[n:]
	}
	return messages[:joined]
}

// appendSegmentSize appends a control message for the kernel.
func appendSegmentSize(b []byte, size int) []byte {
	b = append(b, make([]byte, unix.CmsgSpace(2))...)
	h := b[len(b)-unix.CmsgSpace(2):]
	if unix.SizeofPtr == 8 {
		binary.NativeEndian.PutUint64(h, uint64(unix.CmsgLen(2)))
	} else {
		binary.NativeEndian.PutUint32(h, uint32(unix.CmsgLen(2)))
	}
	binary.NativeEndian.PutUint32(h[unix.SizeofPtr:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(h[unix.SizeofPtr+4:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(h[unix.CmsgLen(0):], uint16(size))
	return b
}
