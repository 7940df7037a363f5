package tunnel

import "encoding/binary"

// A frame is a header of 12 bytes and, if it is yamux data, a payload. yamux's
// frames have version 0. Frames of version 1 are adit's own: they go between the
// guards of both ends and yamux never sees them. PROTOCOL.md has the table.
const (
	headerSize   = 12
	maxFrameData = 16 << 10 // so that streams take turns on a slow path

	// frameData is how much goes into one frame here: with what goes around it, two
	// fit into two records of TLS.
	frameData = maxFrameData - 24

	yamuxVersion = 0
	guardVersion = 1
)

// The types of yamux's frames that adit uses.
const (
	typeData   = 0
	typeWindow = 1
)

// yamux's flags.
const (
	flagSYN = 1
	flagACK = 2
	flagFIN = 4
	flagRST = 8
)

// The types of the guard's own frames. Header fields that a type does not
// use are zero.
const (
	typeCredit  = 1 // the receiver of a stream lets its sender send value bytes more
	typeRelease = 2 // the sender gives back value bytes of credit that it does not need
	typeReset   = 3 // the stream is over, value is a resetCode
	typePing    = 4 // answer with a pong of the same value
	typePong    = 5
	typeDrain   = 6 // open no more streams in this session
	typeClose   = 7 // the session ends, value is a Refusal or zero
)

// resetCode tells why a stream was reset.
type resetCode uint32

const (
	resetByPeer  resetCode = 0 // whoever is behind the peer broke the connection
	resetRefused resetCode = 1 // never handled: opening it elsewhere is safe
)

// header is a frame's header, for reading and writing.
type header [headerSize]byte

func (h *header) version() byte  { return h[0] }
func (h *header) kind() byte     { return h[1] }
func (h *header) flags() uint16  { return binary.BigEndian.Uint16(h[2:]) }
func (h *header) stream() uint32 { return binary.BigEndian.Uint32(h[4:]) }

// value is the length of data, a window's increment, or what the type says.
func (h *header) value() uint32 { return binary.BigEndian.Uint32(h[8:]) }

func (h *header) setValue(v uint32) { binary.BigEndian.PutUint32(h[8:], v) }

func (h *header) isData() bool { return h.version() == yamuxVersion && h.kind() == typeData }

// prefix is all but the value.
func (h *header) prefix() uint64 { return binary.BigEndian.Uint64(h[:]) }

func makeHeader(version, kind byte, flags uint16, stream, value uint32) header {
	var h header
	h[0], h[1] = version, kind
	binary.BigEndian.PutUint16(h[2:], flags)
	binary.BigEndian.PutUint32(h[4:], stream)
	binary.BigEndian.PutUint32(h[8:], value)
	return h
}
