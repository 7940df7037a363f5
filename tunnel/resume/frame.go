package resume

import "encoding/binary"

// The types of frames. Each begins with an octet for the type and three for a
// length, big-endian; the length is zero where a type has no payload. PROTOCOL.md
// has the table.
const (
	typeData     = 1 // offset, acknowledged offset, payload
	typeAck      = 2 // acknowledged offset
	typePing     = 3 // value
	typePong     = 4 // value
	typeDatagram = 5 // payload
	typeClose    = 6 // reason
)

// Sizes in bytes.
const (
	headSize   = 4
	valueSize  = 8
	smallFrame = headSize + valueSize   // ack, ping, pong, close
	dataHead   = headSize + 2*valueSize // what goes before data's payload

	maxData     = 41<<10 - dataHead // payload of a data frame: a batch of the session's
	maxDatagram = 65_527 + 269      // payload of a datagram frame: the most that UDP has, with what goes before it
)

// Reasons in a close frame.
const (
	closedByPeer    = 0 // an ordinary end
	closedByBreach  = 1 // this end broke the protocol
	closedByTimeout = 2 // the grace was over, or the replay buffer was needed elsewhere
)

func putHead(b []byte, kind byte, length int) {
	binary.BigEndian.PutUint32(b, uint32(kind)<<24|uint32(length))
}

// appendValue appends a frame that is a value.
func appendValue(b []byte, kind byte, value uint64) []byte {
	b = append(b, kind, 0, 0, 0)
	return binary.BigEndian.AppendUint64(b, value)
}

// putData writes the header of a data frame.
func putData(b []byte, length int, offset, acknowledged uint64) {
	putHead(b, typeData, length)
	binary.BigEndian.PutUint64(b[headSize:], offset)
	binary.BigEndian.PutUint64(b[headSize+valueSize:], acknowledged)
}
