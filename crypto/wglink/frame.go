package wglink

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A datagram is in a frame that WireGuard takes for a packet of IPv4 (RFC 791 section
// 3.1): of such it reads the version, the length and one address. The rest is the
// datagram's.
const (
	// What frames begin with. No packet does: its header would have 0 or 4 bytes.
	longMark  = header.IPv4Version << 4
	shortMark = longMark | 1

	frameLength = 2 // where the length is; everything is in it
	frameHead   = 7 // mark, length and tag

	// minFrame is the least that WireGuard takes. So much of a datagram has its
	// place between the mark, the length and the tag. One that is shorter is
	// behind its own length there.
	minFrame = header.IPv4MinimumSize
	between  = minFrame - frameHead
)

// direction is that of a frame, and says where the tag is in it.
type direction int

const (
	toServer direction = 12 // the source: WireGuard sees to it that the sender has it
	toDevice direction = 16 // the destination: by it WireGuard finds the device
)

// back is the other direction.
func (d direction) back() direction { return toServer + toDevice - d }

// tag names a carrier in the frames of its datagrams. It looks like an address of IPv4
// that nobody has, and WireGuard lets the carrier's device alone use it.
type tag [4]byte

// tagOf gives the tag of the carrier that has a nonce. Both ends derive it. It is
// in what is reserved of IPv4 (RFC 1112 section 4).
func tagOf(nonce [nonceSize]byte) tag {
	t := tag(nonce[:])
	t[0] |= 0xf0
	return t
}

// tags are all that there may be.
var tags = netip.MustParsePrefix("240.0.0.0/4")

// prefix is the tag as WireGuard wants it.
func (t tag) prefix() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4(t), 32) }

// frameSize is how many bytes the frame of a datagram of n bytes has.
func frameSize(n int) int { return max(frameHead+n, minFrame) }

// put makes a frame in b, which has its size.
func (d direction) put(b []byte, t tag, payload []byte) {
	b[0] = longMark
	if len(payload) < between {
		var short [between]byte
		short[0] = uint8(copy(short[1:], payload))
		b[0], payload = shortMark, short[:]
	}
	binary.BigEndian.PutUint16(b[frameLength:], uint16(len(b)))
	other := d.back()
	b[1] = payload[0]
	copy(b[4:toServer], payload[1:])
	copy(b[other:other+4], payload[9:])
	copy(b[d:], t[:])
	copy(b[minFrame:], payload[between:])
}

// isFrame tells whether what has come is a frame.
func isFrame(b []byte) bool {
	return len(b) >= minFrame && (b[0] == longMark || b[0] == shortMark)
}

// parts gives the datagram in a frame, which may be garbled, in two parts. The first
// begins in room.
func (d direction) parts(b []byte, room *[between]byte) (first, rest []byte, ok bool) {
	if int(binary.BigEndian.Uint16(b[frameLength:])) != len(b) {
		return nil, nil, false
	}
	other := d.back()
	room[0] = b[1]
	copy(room[1:], b[4:toServer])
	copy(room[9:], b[other:other+4])
	if b[0] == longMark {
		return room[:], b[minFrame:], true
	}
	n := int(room[0])
	if len(b) > minFrame || n >= between {
		return nil, nil, false
	}
	return room[1 : 1+n], nil, true
}

// inboxes knows the connections that take datagrams, by their tags.
type inboxes struct {
	direction // of what comes

	mu  sync.RWMutex
	all map[tag]*inbox
}

func newInboxes(d direction) *inboxes { return &inboxes{direction: d, all: map[tag]*inbox{}} }

// add tells whether nobody else has the tag.
func (s *inboxes) add(t tag, i *inbox) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[t] != nil {
		return false
	}
	s.all[t] = i
	return true
}

func (s *inboxes) remove(t tag) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, t)
}

// deliver takes a frame. It is dropped if nobody has its tag, or if it is garbled.
func (s *inboxes) deliver(b []byte) {
	s.mu.RLock()
	i := s.all[tag(b[s.direction:])]
	s.mu.RUnlock()
	if i == nil {
		return
	}
	var room [between]byte
	if first, rest, ok := s.parts(b, &room); ok {
		i.put(first, rest)
	}
}
