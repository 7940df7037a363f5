package cfx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// MaxExport bounds what [Context.Export] gives, in bytes.
const MaxExport = exportHead + maxKey + 2*(1+math.MaxUint8)

const (
	exportVersion = 1
	exportHead    = 1 + 1 + 1 + 4 + 8 + 8 + 8

	exportAcceptorKey = 0x01
	exportInitiator   = 0x02
)

// Export gives the context's bytes, for [Import] to go on with it elsewhere. They
// hold the key: they must travel encrypted, to nobody but who serves the peer
// from then on. The context must not be used any more.
//
//	version          1 octet   1
//	encryption type  1 octet
//	bits             1 octet   1: the acceptor chose the key; 2: this is the initiator
//	flags            4 octets
//	expires          8 octets  Unix time in seconds
//	next to send     8 octets
//	next to receive  8 octets
//	key              16 or 32 octets
//	principal        1 octet of length, then as many
//	realm            1 octet of length, then as many
//
// Numbers are big-endian. Datagrams that were under way are lost.
func (c *Context) Export() []byte {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.receiving.Lock()
	defer c.receiving.Unlock()
	s := c.state
	b := append(make([]byte, 0, MaxExport), exportVersion, byte(s.Key.kind), 0)
	if s.AcceptorKey {
		b[2] |= exportAcceptorKey
	}
	if s.Initiator {
		b[2] |= exportInitiator
	}
	b = binary.BigEndian.AppendUint32(b, uint32(s.Peer.Flags))
	b = binary.BigEndian.AppendUint64(b, uint64(s.Peer.Expires.Unix()))
	b = binary.BigEndian.AppendUint64(b, s.Send)
	b = binary.BigEndian.AppendUint64(b, c.window.expected)
	b = append(b, s.Key.Reveal()...)
	b = append(append(b, byte(len(s.Peer.Principal))), s.Peer.Principal...)
	return append(append(b, byte(len(s.Peer.Realm))), s.Peer.Realm...)
}

var errExport = errors.New("import context: its bytes are not those of an export")

// Import makes a context of what [Context.Export] gave. Whatever else it is
// given is an error.
func Import(b []byte) (*Context, error) {
	if len(b) < exportHead || b[0] != exportVersion || b[2]&^(exportAcceptorKey|exportInitiator) != 0 {
		return nil, errExport
	}
	s := State{
		AcceptorKey: b[2]&exportAcceptorKey != 0,
		Initiator:   b[2]&exportInitiator != 0,
		Send:        binary.BigEndian.Uint64(b[15:]),
		Receive:     binary.BigEndian.Uint64(b[23:]),
		Peer: Peer{
			Flags:   Flags(binary.BigEndian.Uint32(b[3:])),
			Expires: time.Unix(int64(binary.BigEndian.Uint64(b[7:])), 0).UTC(),
		},
	}
	kind, rest := EncType(b[1]), b[exportHead:]
	size := kind.keySize()
	if size == 0 || len(rest) < size {
		return nil, errExport
	}
	var err error
	if s.Key, err = NewKey(kind, rest[:size]); err != nil {
		return nil, fmt.Errorf("import context: %w", err)
	}
	rest = rest[size:]
	if s.Peer.Principal, rest, err = cutString(rest); err != nil {
		return nil, err
	}
	if s.Peer.Realm, rest, err = cutString(rest); err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, errExport
	}
	return New(s)
}

// cutString takes a length octet and as many bytes.
func cutString(b []byte) (s string, rest []byte, err error) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return "", nil, errExport
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], nil
}
