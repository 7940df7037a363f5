package ipsec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// vici is charon's interface for programs, see strongSwan's vici README. Lengths
// are in the network's byte order.
const defaultVICI = "/run/charon.vici"

// Types of packets.
const (
	viciRequest       = 0 // + name, message
	viciResponse      = 1 // + message
	viciUnknown       = 2
	viciRegister      = 3 // + name
	viciConfirm       = 5
	viciUnknownEvent  = 6
	viciEvent         = 7 // + name, message
	mostVICIPacket    = 512 << 10
	mostVICIDepth     = 8
	viciAnswersWithin = 2 * time.Second
)

// Types of what a message is made of.
const (
	viciSectionStart = 1
	viciSectionEnd   = 2
	viciKeyValue     = 3
	viciListStart    = 4
	viciListItem     = 5
	viciListEnd      = 6
)

var errVICI = errors.New("charon's answer makes no sense")

// section is a message or a part of one.
type section struct {
	values map[string]string
	lists  map[string][]string
	parts  []part // sections in it, in order
}

type part struct {
	name string
	section
}

// find gives the first section of a name.
func (s *section) find(name string) *section {
	for i := range s.parts {
		if s.parts[i].name == name {
			return &s.parts[i].section
		}
	}
	return &section{}
}

// parseMessage reads a whole message.
func parseMessage(b []byte) (section, error) {
	s, rest, err := parseSection(b, 0)
	if err == nil && len(rest) > 0 {
		err = errVICI // an end of what has not begun
	}
	return s, err
}

// parseSection reads until the section's end, or the message's for depth 0.
func parseSection(b []byte, depth int) (s section, rest []byte, err error) {
	s = section{values: map[string]string{}, lists: map[string][]string{}}
	if depth > mostVICIDepth {
		return s, nil, errVICI
	}
	for len(b) > 0 {
		kind := b[0]
		if kind == viciSectionEnd && depth > 0 {
			return s, b[1:], nil
		}
		name, after, ok := cutString(b[1:], 1)
		if !ok {
			return s, nil, errVICI
		}
		b = after
		switch kind {
		case viciKeyValue:
			if s.values[name], b, ok = cutString(b, 2); !ok {
				return s, nil, errVICI
			}
		case viciListStart:
			if s.lists[name], b, ok = cutList(b); !ok {
				return s, nil, errVICI
			}
		case viciSectionStart:
			var inner section
			if inner, b, err = parseSection(b, depth+1); err != nil {
				return s, nil, err
			}
			s.parts = append(s.parts, part{name, inner})
		default:
			return s, nil, errVICI
		}
	}
	if depth > 0 {
		return s, nil, errVICI // it does not end
	}
	return s, nil, nil
}

// cutString cuts a string with its length before it, in size bytes.
func cutString(b []byte, size int) (s string, rest []byte, ok bool) {
	if len(b) < size {
		return "", nil, false
	}
	n := int(b[0])
	if size == 2 {
		n = int(binary.BigEndian.Uint16(b))
	}
	if b = b[size:]; len(b) < n {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}

// cutList cuts the items up to the list's end.
func cutList(b []byte) (items []string, rest []byte, ok bool) {
	for len(b) > 0 && b[0] == viciListItem {
		item, after, ok := cutString(b[1:], 2)
		if !ok {
			return nil, nil, false
		}
		items, b = append(items, item), after
	}
	if len(b) == 0 || b[0] != viciListEnd {
		return nil, nil, false
	}
	return items, b[1:], true
}

// vici is a connection to charon. Not safe for concurrent use.
type vici struct{ conn net.Conn }

func dialVICI(ctx context.Context, path string) (*vici, error) {
	dialer := net.Dialer{Timeout: viciAnswersWithin}
	c, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("ask charon: %w", err)
	}
	return &vici{c}, nil
}

func (v *vici) close() { v.conn.Close() }

// write sends a packet with a name and an empty message.
func (v *vici) write(kind byte, name string) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(2+len(name)))
	b = append(b, kind, byte(len(name)))
	_, err := v.conn.Write(append(b, name...))
	return err
}

// read gives the next packet.
func (v *vici) read() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(v.conn, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > mostVICIPacket {
		return 0, nil, errVICI
	}
	body = make([]byte, n-1)
	_, err = io.ReadFull(v.conn, body)
	return head[4], body, err
}

// register asks for events of a name.
func (v *vici) register(event string) error {
	if err := v.write(viciRegister, event); err != nil {
		return fmt.Errorf("ask charon for %s: %w", event, err)
	}
	for {
		kind, _, err := v.read()
		switch {
		case err != nil:
			return fmt.Errorf("ask charon for %s: %w", event, err)
		case kind == viciConfirm:
			return nil
		case kind == viciEvent: // of those asked for before
		default:
			return fmt.Errorf("ask charon for %s: %w", event, errVICI)
		}
	}
}

// request calls each, which may be nil, with the events that charon sends before
// the response, and returns that.
func (v *vici) request(command string, each func(section)) (section, error) {
	if err := v.write(viciRequest, command); err != nil {
		return section{}, fmt.Errorf("ask charon to %s: %w", command, err)
	}
	for {
		kind, body, err := v.read()
		if err != nil {
			return section{}, fmt.Errorf("ask charon to %s: %w", command, err)
		}
		if kind == viciResponse {
			return parseMessage(body)
		}
		_, body, ok := cutString(body, 1)
		if kind != viciEvent || !ok {
			return section{}, fmt.Errorf("ask charon to %s: %w", command, errVICI)
		}
		event, err := parseMessage(body)
		if err != nil {
			return section{}, fmt.Errorf("ask charon to %s: %w", command, err)
		}
		if each != nil {
			each(event)
		}
	}
}
