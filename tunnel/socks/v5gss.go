package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// What the messages of RFC 1961 start with: version, type and length. Both phases of
// the negotiation, a stream and datagrams have the same ones.
const (
	gssHead    = 4
	gssVersion = 1

	gssToken      = 0x01 // establishes the context
	gssProtection = 0x02 // negotiates the level of protection
	gssData       = 0x03
	gssAbort      = 0xff
)

// gssAborted is two octets in RFC 1961. Apps that read four before they look at
// any would not notice those.
const gssAborted = "\x01\xff\x00\x00"

var (
	errGSSAborted = errors.New("the app has given up")
	errGSSSize    = errors.New("message has more than 65535 bytes")
)

// gssError says that a message is not what is due.
func gssError(want, version, kind byte) error {
	switch {
	case version != gssVersion:
		return fmt.Errorf("its version is %d", version)
	case kind == gssAbort:
		return errGSSAborted
	case kind != want:
		return fmt.Errorf("its type is %d instead of %d", kind, want)
	}
	return nil
}

// readGSS reads one message of a type, and not a byte more. Its token has at most
// 65535 bytes, and takes no more room than has come.
func readGSS(in io.Reader, kind byte) ([]byte, error) {
	var head [gssHead]byte
	if _, err := io.ReadFull(in, head[:2]); err != nil {
		return nil, fmt.Errorf("read GSS-API message: %w", noEOF(err))
	}
	if err := gssError(kind, head[0], head[1]); err != nil {
		return nil, fmt.Errorf("read GSS-API message: %w", err)
	}
	if _, err := io.ReadFull(in, head[2:]); err != nil {
		return nil, fmt.Errorf("read GSS-API message: %w", noEOF(err))
	}
	size := int(binary.BigEndian.Uint16(head[2:]))
	token, err := io.ReadAll(io.LimitReader(in, int64(size)))
	if err == nil && len(token) < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read GSS-API message: %w", err)
	}
	return token, nil
}

// appendGSS appends one message.
func appendGSS(b []byte, kind byte, token []byte) ([]byte, error) {
	start := len(b)
	return endGSS(append(beginGSS(b, kind), token...), start)
}

// beginGSS appends what a message starts with. The token follows, and then
// endGSS, which is told where the message begins.
func beginGSS(b []byte, kind byte) []byte { return append(b, gssVersion, kind, 0, 0) }

func endGSS(b []byte, start int) ([]byte, error) {
	size := len(b) - start - gssHead
	if size > math.MaxUint16 {
		return nil, errGSSSize
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(size))
	return b, nil
}
