package wan

// Protocol is what an IP packet carries, as its header says (RFC 9293, RFC 768).
type Protocol byte

// The protocols that a link can lose.
const (
	Nothing Protocol = 0
	TCP     Protocol = protocolTCP
	UDP     Protocol = 17
)

// Block makes the link lose every packet of one protocol, also those under way,
// and let all others through. Neither end is told.
func (l *Link) Block(p Protocol) { l.blocked.Store(uint32(p)) }

// loses tells whether the link lets a packet not through.
func (l *Link) loses(packet []byte) bool {
	blocked := Protocol(l.blocked.Load())
	return l.down.Load() || blocked != Nothing && protocolOf(packet) == blocked
}

// protocolOf reads a packet's protocol. It does not look behind IPv6 extension
// headers.
func protocolOf(packet []byte) Protocol {
	switch {
	case len(packet) >= header4 && packet[0]>>4 == 4:
		return Protocol(packet[9])
	case len(packet) >= header6 && packet[0]>>4 == 6:
		return Protocol(packet[6])
	}
	return Nothing
}
