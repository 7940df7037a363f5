package cfx

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// MaxOverhead is by how many bytes a token is longer than its message, at most.
const MaxOverhead = 2*headerSize + blockSize + maxMAC

// Key usages of RFC 4121 section 2. A token that only shows integrity has the
// number for sealing as well.
const (
	acceptorSeal  = 22
	initiatorSeal = 24
)

// A token's header, and the flags in its third octet.
const (
	headerSize = 16

	byAcceptor  = 0x01
	sealed      = 0x02
	acceptorKey = 0x04
)

// ErrSequence says that a token has come before, or too late, or, on a stream,
// that one before it is missing.
var ErrSequence = errors.New("token is out of sequence")

// Peer is who is at the other end of a [Context], and what was agreed with them.
type Peer struct {
	Principal string    // such as "alice", or "host/a.example.org"; at most 255 bytes
	Realm     string    // such as "EXAMPLE.ORG"; at most 255 bytes
	Expires   time.Time // when the ticket does, to the second; a context does not end with it
	Flags     Flags
}

// Name gives principal and realm: "alice@EXAMPLE.ORG".
func (p Peer) Name() string { return p.Principal + "@" + p.Realm }

// Flags are what an initiator has asked for (RFC 4121 section 4.1.1.1).
type Flags uint32

// The flags.
const (
	Delegation      Flags = 1 << iota // credentials came along, and were ignored
	Mutual                            // the acceptor has proved itself
	Replay                            // replays are to be detected, which they always are
	Sequence                          // so are gaps, and they are on streams
	Confidentiality                   // the initiator may seal
	Integrity                         // the initiator may sign
)

// State is all that a [Context] is made of.
type State struct {
	Key         Key
	AcceptorKey bool   // Key was chosen by the acceptor
	Initiator   bool   // the side that this is
	Send        uint64 // sequence number of the next token sent
	Receive     uint64 // sequence number of the next token received
	Peer        Peer
}

// Context is one side of an established GSS-API context. All methods are safe
// for concurrent use.
type Context struct {
	state State

	sending sync.Mutex // guards wrapper and state.Send
	wrapper *tool

	receiving sync.Mutex // guards opener and window
	opener    *tool
	window    window
}

// New makes a context. It fails if the state has no key, or a name that is too
// long.
func New(s State) (*Context, error) {
	switch {
	case s.Key.kind == 0:
		return nil, errors.New("make context: there is no key")
	case len(s.Peer.Principal) > math.MaxUint8 || len(s.Peer.Realm) > math.MaxUint8:
		return nil, errors.New("make context: the peer's name is too long")
	}
	send, receive := uint32(acceptorSeal), uint32(initiatorSeal)
	if s.Initiator {
		send, receive = receive, send
	}
	return &Context{
		state:   s,
		wrapper: newTool(s.Key, send),
		opener:  newTool(s.Key, receive),
		window:  newWindow(s.Receive),
	}, nil
}

// Peer tells who is at the other end.
func (c *Context) Peer() Peer { return c.state.Peer }

// Name is the peer's: "alice@EXAMPLE.ORG".
func (c *Context) Name() string { return c.state.Peer.Name() }

// EncType is the type of the key that protects messages.
func (c *Context) EncType() EncType { return c.state.Key.kind }

// flags are those of the tokens that one side sends.
func (c *Context) flags(initiator bool) (f byte) {
	if !initiator {
		f |= byAcceptor
	}
	if c.state.AcceptorKey {
		f |= acceptorKey
	}
	return f
}

// Wrap appends a token with the payload to dst, which must not share memory
// with it. The token is at most [MaxOverhead] longer than the payload. If seal is
// false, the payload is readable in it, and protected against change only.
func (c *Context) Wrap(dst, payload []byte, seal bool) []byte {
	return c.wrap(dst, payload, seal, func(block []byte) { rand.Read(block) })
}

// wrap is Wrap with a block in front of what it seals that confound fills.
func (c *Context) wrap(dst, payload []byte, seal bool, confound func(block []byte)) []byte {
	c.sending.Lock()
	defer c.sending.Unlock()
	dst = slices.Grow(dst, len(payload)+MaxOverhead)
	start := len(dst)
	dst = append(dst, 5, 4, c.flags(c.state.Initiator), 0xff, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, c.state.Send)
	c.state.Send++
	header := dst[start:]
	if seal {
		header[2] |= sealed
		dst = append(append(append(dst, zero[:]...), payload...), header...)
		confound(dst[start+headerSize:][:blockSize])
		return c.wrapper.seal(dst, start+headerSize)
	}
	mac := c.wrapper.mac(c.wrapper.checksum, payload, header)
	binary.BigEndian.PutUint16(header[4:], uint16(len(mac)))
	return append(append(dst, payload...), mac...)
}

// Unwrap gives the payload of the next token of a stream, and says whether it
// was sealed. It fails with [ErrToken], or with [ErrSequence] if the token is
// not the one that follows. The token is overwritten; the payload aliases it.
func (c *Context) Unwrap(token []byte) (payload []byte, seal bool, err error) {
	return c.unwrap(token, (*window).next)
}

// UnwrapDatagram is [Context.Unwrap] for tokens that may get lost or overtake
// each other. It fails with [ErrSequence] if the token has come before, or if
// 1024 later ones have.
func (c *Context) UnwrapDatagram(token []byte) (payload []byte, seal bool, err error) {
	return c.unwrap(token, (*window).admit)
}

func (c *Context) unwrap(token []byte, inOrder func(*window, uint64) bool) (payload []byte, seal bool, err error) {
	c.receiving.Lock()
	defer c.receiving.Unlock()
	payload, seal, seq, err := c.open(token)
	if err == nil && !inOrder(&c.window, seq) {
		err = ErrSequence
	}
	if err != nil {
		return nil, false, fmt.Errorf("unwrap: %w", err)
	}
	return payload, seal, nil
}

// open verifies a token.
func (c *Context) open(token []byte) (payload []byte, seal bool, seq uint64, err error) {
	if len(token) < headerSize {
		return nil, false, 0, ErrToken
	}
	header, body := token[:headerSize], token[headerSize:]
	seal = header[2]&sealed != 0
	if header[0] != 5 || header[1] != 4 || header[2]&^sealed != c.flags(!c.state.Initiator) || header[3] != 0xff {
		return nil, false, 0, ErrToken
	}
	extra, rotation := int(binary.BigEndian.Uint16(header[4:])), int(binary.BigEndian.Uint16(header[6:]))
	rotateLeft(body, rotation)
	clear(header[6:8])
	if seal {
		payload, err = c.openSealed(header, body, extra)
	} else {
		clear(header[4:6])
		payload, err = c.openSigned(header, body, extra)
	}
	return payload, seal, binary.BigEndian.Uint64(header[8:]), err
}

// openSealed finds, behind what was encrypted, filler and a copy of the header.
func (c *Context) openSealed(header, body []byte, filler int) ([]byte, error) {
	text, err := c.opener.open(body)
	if err != nil {
		return nil, err
	}
	end := len(text) - headerSize
	if end < blockSize+filler || string(text[end:]) != string(header) {
		return nil, ErrToken
	}
	return text[blockSize : end-filler], nil
}

func (c *Context) openSigned(header, body []byte, macSize int) ([]byte, error) {
	end := len(body) - macSize
	if macSize != c.opener.macSize || end < 0 {
		return nil, ErrToken
	}
	if !equal(c.opener.mac(c.opener.checksum, body[:end], header), body[end:]) {
		return nil, ErrToken
	}
	return body[:end], nil
}

// rotateLeft undoes a right rotation (RFC 4121 section 4.2.5), in place.
func rotateLeft(b []byte, n int) {
	if len(b) == 0 || n%len(b) == 0 {
		return
	}
	n %= len(b)
	slices.Reverse(b[:n])
	slices.Reverse(b[n:])
	slices.Reverse(b)
}
