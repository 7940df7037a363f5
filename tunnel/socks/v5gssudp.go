package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errGSSShort = errors.New("datagram is shorter than its message")

// AppendDatagram protects a datagram for the app as agreed (RFC 1961 section 5),
// and appends it to dst, which shares no memory with it. The payload is a whole
// UDP message of RFC 1928 section 7. At level 0 it stays as it is.
func (g *GSSChannel) AppendDatagram(dst, payload []byte) ([]byte, error) {
	if g.Level == GSSLevelNone {
		return append(dst, payload...), nil
	}
	start := len(dst)
	b, err := endGSS(g.context.Wrap(beginGSS(dst, gssData), payload, g.seals()), start)
	if err != nil {
		return nil, fmt.Errorf("protect datagram: %w", err)
	}
	return b, nil
}

// OpenDatagram gives the UDP message in an app's datagram. A datagram that is not
// the app's, or has come before, is an error and to be dropped without a word.
// The datagram is overwritten; the message aliases it. It is safe to call several
// at once.
func (g *GSSChannel) OpenDatagram(datagram []byte) ([]byte, error) {
	if g.Level == GSSLevelNone {
		return datagram, nil
	}
	payload, err := g.openDatagram(datagram)
	if err != nil {
		return nil, fmt.Errorf("open datagram: %w", err)
	}
	return payload, nil
}

func (g *GSSChannel) openDatagram(b []byte) ([]byte, error) {
	if len(b) < gssHead {
		return nil, errGSSShort
	}
	if err := gssError(gssData, b[0], b[1]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	if len(b)-gssHead < size {
		return nil, errGSSShort
	}
	payload, sealed, err := g.context.UnwrapDatagram(b[gssHead:][:size])
	if err != nil {
		return nil, err
	}
	return payload, g.check(sealed)
}
