package tunnel

import (
	"context"
	"encoding/binary"

	"github.com/adit-net/adit/tunnel/resume"
)

// MaxDatagramFlow is the highest number that a flow of datagrams may have.
const MaxDatagramFlow = 1<<30 - 1

// ErrDatagramSize says that a datagram is too long.
var ErrDatagramSize = resume.ErrDatagramSize

// SendDatagram sends a copy of b to the peer, for one flow. It never waits, and
// may be lost: when the session has no carrier, when the carrier breaks, and when it takes them too
// slowly; then the oldest go first. Flow numbers below 64 cost one byte, below 16,384 two, all
// others four.
func (s *Session) SendDatagram(flow uint32, b []byte) error {
	if s.resumes == nil {
		return errFixedPipe
	}
	if flow > MaxDatagramFlow {
		return violation("datagram flow %d", flow)
	}
	var head [4]byte
	return s.resumes.SendDatagram(appendFlow(head[:0], flow), b)
}

// ReceiveDatagram waits for a datagram of the peer's, and gives its flow number,
// which the peer has chosen. If nobody waits, datagrams queue, and the oldest are dropped. Only one
// goroutine may call it at a time.
func (s *Session) ReceiveDatagram(ctx context.Context) (flow uint32, b []byte, err error) {
	if s.resumes == nil {
		return 0, nil, errFixedPipe
	}
	b, err = s.resumes.ReceiveDatagram(ctx)
	if err != nil {
		return 0, nil, err
	}
	flow, n := takeFlow(b)
	if n == 0 {
		err := violation("datagram without a flow number")
		s.fail(err)
		return 0, nil, err
	}
	return flow, b[n:], nil
}

// appendFlow appends a flow number as a variable-length integer (RFC 9000
// section 16) of at most four bytes.
func appendFlow(b []byte, flow uint32) []byte {
	switch {
	case flow < 1<<6:
		return append(b, byte(flow))
	case flow < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(flow)|1<<14)
	}
	return binary.BigEndian.AppendUint32(b, flow|2<<30)
}

// takeFlow reads what appendFlow has written, and says how many bytes it is; 0
// if b does not begin with such a number.
func takeFlow(b []byte) (flow uint32, n int) {
	switch {
	case len(b) >= 1 && b[0]>>6 == 0:
		return uint32(b[0]), 1
	case len(b) >= 2 && b[0]>>6 == 1:
		return uint32(binary.BigEndian.Uint16(b)) &^ (1 << 14), 2
	case len(b) >= 4 && b[0]>>6 == 2:
		return binary.BigEndian.Uint32(b) &^ (2 << 30), 4
	}
	return 0, 0
}
