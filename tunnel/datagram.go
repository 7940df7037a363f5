package tunnel

import (
	"context"
	"encoding/binary"

	"github.com/adit-net/adit/tunnel/resume"
)

// Datagram is a datagram to be sent: a head and a body, one behind the other. It
// begins with the number of its flow, see [AppendFlow].
type Datagram = resume.Datagram

// ErrDatagramSize says that a datagram is empty or too long.
var ErrDatagramSize = resume.ErrDatagramSize

// SendDatagrams sends datagrams to the peer, and keeps nothing of batch. It never waits,
// and any may be lost: when the session has no carrier, when the carrier breaks, and when it
// takes them too slowly; then the oldest go first.
func (s *Session) SendDatagrams(batch []Datagram) error {
	if s.resumes == nil {
		return errFixedPipe
	}
	return s.resumes.SendDatagrams(batch)
}

// ReceiveDatagrams waits for datagrams of the peer's and gives some, at most as many
// as into has room for. They last until the next call. If nobody waits, datagrams queue, and the
// oldest are dropped. Only one goroutine may call it at a time.
func (s *Session) ReceiveDatagrams(ctx context.Context, into [][]byte) (int, error) {
	if s.resumes == nil {
		return 0, errFixedPipe
	}
	return s.resumes.ReceiveDatagrams(ctx, into)
}

// MaxDatagramFlow is the highest number that a flow of datagrams may have.
const MaxDatagramFlow = 1<<30 - 1

// AppendFlow appends a flow number, of at most [MaxDatagramFlow], as a variable-length integer (RFC 9000
// section 16) of at most four bytes.
func AppendFlow(b []byte, flow uint32) []byte {
	switch {
	case flow < 1<<6:
		return append(b, byte(flow))
	case flow < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(flow)|1<<14)
	}
	return binary.BigEndian.AppendUint32(b, flow|2<<30)
}

// TakeFlow reads what AppendFlow has written, and says how many bytes it is; 0
// if b does not begin with such a number.
func TakeFlow(b []byte) (flow uint32, n int) {
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
