package tlslink

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ErrWebsite says that the server has answered as a web site does. It may be
// no adit server, or not know this device or invite, or somebody may have
// replayed or changed the opening: by design one cannot tell.
var ErrWebsite = errors.New("the server answered as a web site: it does not know this device or invite, or is no adit server")

// HTTP/2 as far as a carrier's opening speaks it (RFC 9113).
const (
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // section 3.4
	frameHeader = 9                                  // section 4.1
	pingSize    = 8                                  // section 6.7

	frameSettings  = 0x4
	framePing      = 0x6
	frameGoAway    = 0x7
	frameExtension = 0xad // unregistered; carries the opening and the answer

	flagAck = 0x1
)

// Bounds on what goes before an opening and before an answer.
const (
	maxSettings = 256      // octets of the client's SETTINGS
	maxFrames   = 64       // HTTP/2 frames before the answer
	maxSkipped  = 64 << 10 // octets in them
)

// header is an HTTP/2 frame's header.
type header struct {
	length int
	kind   byte
	flags  byte
	stream uint32
}

func parseHeader(b []byte) header {
	return header{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3],
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) &^ (1 << 31), // the reserved bit
	}
}

// appendFrame adds a frame on stream 0 without flags.
func appendFrame(b []byte, kind byte, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, 0, 0, 0, 0, 0)
	return append(b, payload...)
}

// chromeSettings is what Chrome sends: HEADER_TABLE_SIZE 64 KiB, no push,
// INITIAL_WINDOW_SIZE 6 MiB, MAX_HEADER_LIST_SIZE 256 KiB (section 6.5.2).
var chromeSettings = []byte{
	0, 1, 0, 1, 0, 0,
	0, 2, 0, 0, 0, 0,
	0, 4, 0, 0x60, 0, 0,
	0, 6, 0, 4, 0, 0,
}

// flight is what a client writes to open a carrier.
func flight(opening []byte) []byte {
	ping := make([]byte, pingSize)
	_, _ = rand.Read(ping) // never fails
	b := []byte(preface)
	b = appendFrame(b, frameSettings, chromeSettings)
	b = appendFrame(b, frameExtension, opening)
	return appendFrame(b, framePing, ping)
}

// scan looks for an opening in what a client has sent so far. It tells how
// many more bytes to look at before it is called again. When that is none, it
// knows: the opening is either the end of seen, or there is none and never will be.
func scan(seen []byte) (more int, opening []byte) {
	rest := seen
	if len(rest) < len(preface) {
		return len(preface) - len(rest), nil
	}
	if !bytes.HasPrefix(rest, []byte(preface)) {
		return 0, nil
	}
	rest = rest[len(preface):]
	if len(rest) < frameHeader {
		return frameHeader - len(rest), nil
	}
	settings := parseHeader(rest)
	if settings.kind != frameSettings || settings.flags != 0 || settings.stream != 0 || settings.length > maxSettings {
		return 0, nil
	}
	rest = rest[frameHeader:]
	if len(rest) < settings.length+frameHeader {
		return settings.length + frameHeader - len(rest), nil
	}
	rest = rest[settings.length:]
	if parseHeader(rest) != (header{length: OpeningSize, kind: frameExtension}) {
		return 0, nil
	}
	rest = rest[frameHeader:]
	if len(rest) < OpeningSize {
		return OpeningSize - len(rest), nil
	}
	return 0, slices.Clone(rest[:OpeningSize])
}

// readPing reads the PING that follows an opening.
func readPing(r io.Reader) error {
	var b [frameHeader + pingSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("read ping: %w", err)
	}
	if parseHeader(b[:]) != (header{length: pingSize, kind: framePing}) {
		return errors.New("read ping: another frame came")
	}
	return nil
}

// readAnswer reads frames up to and including the server's answer. It reads
// nothing beyond.
func readAnswer(r io.Reader) ([]byte, error) {
	skipped := 0
	for range maxFrames {
		var b [frameHeader]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		h := parseHeader(b[:])
		switch {
		case h == header{length: AnswerSize, kind: frameExtension}:
			answer := make([]byte, AnswerSize)
			if _, err := io.ReadFull(r, answer); err != nil {
				return nil, fmt.Errorf("read answer: %w", err)
			}
			return answer, nil
		case h.kind == framePing && h.flags&flagAck != 0, h.kind == frameGoAway:
			return nil, ErrWebsite
		case string(b[:5]) == "HTTP/": // not even HTTP/2
			return nil, ErrWebsite
		}
		if skipped += h.length; skipped > maxSkipped {
			return nil, fmt.Errorf("read answer: more than %d bytes came before it", maxSkipped)
		}
		if _, err := io.CopyN(io.Discard, r, int64(h.length)); err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
	}
	return nil, fmt.Errorf("read answer: more than %d frames came before it", maxFrames)
}
