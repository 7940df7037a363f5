package socks

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The codes of SOCKS 4 replies that a door gives.
const (
	granted4  = 90
	rejected4 = 91
)

// maxUser4 is the longest user id that is taken, in bytes. SOCKS 4 itself has
// no limit, and its user ids prove nothing: they are read and dropped.
const maxUser4 = 255

var errPassword4 = &Error{NotAllowed, errors.New("SOCKS 4 has no passwords, and one is asked for")}

// socks4 serves an app that speaks SOCKS 4 or 4a.
func (a *app) socks4(ctx context.Context) error {
	r, err := readRequest4(a.in)
	if err != nil {
		return a.refuse(err, answer4)
	}
	g := a.enter()
	if g == nil {
		return a.refuse(errPassword4, answer4)
	}
	if r.Command != Connect {
		return a.carry(ctx, g, &r, answerBind4)
	}
	return a.carry(ctx, g, &r, answer4)
}

// readRequest4 reads one request and not a byte more. Its error is an [*Error]
// if the app is to be told.
func readRequest4(in *bufio.Reader) (Request, error) {
	var b [8]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return Request{}, fmt.Errorf("read SOCKS 4 request: %w", err)
	}
	if _, err := readString4(in, maxUser4); err != nil {
		return Request{}, fmt.Errorf("read SOCKS 4 user id: %w", err)
	}
	port := binary.BigEndian.Uint16(b[2:])
	r := Request{
		Command: Command(b[1]), // 1 and 2 mean the same as later; there is no 3
		Dst:     Addr{IP: netip.AddrFrom4([4]byte(b[4:])), Port: port},
		Dialect: SOCKS4,
	}
	if b[4] != 0 || b[5] != 0 || b[6] != 0 || b[7] == 0 {
		return r, nil
	}
	r.Dialect = SOCKS4a
	name, err := readString4(in, maxName)
	if err != nil {
		return Request{}, fmt.Errorf("read SOCKS 4a name: %w", err)
	}
	if r.Dst, err = NewAddr(name, port); err != nil {
		return Request{}, &Error{GeneralFailure, fmt.Errorf("read SOCKS 4a name: %w", err)}
	}
	return r, nil
}

// readString4 reads a string of at most limit bytes and the NUL that ends it.
func readString4(in *bufio.Reader, limit int) (string, error) {
	b := make([]byte, 0, 32)
	for {
		c, err := in.ReadByte()
		switch {
		case err != nil:
			return "", noEOF(err)
		case c == 0:
			return string(b), nil
		case len(b) == limit:
			return "", &Error{GeneralFailure, fmt.Errorf("it is longer than %d bytes", limit)}
		}
		b = append(b, c)
	}
}

// noEOF makes an error of the end of input where more must follow.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// answer4 gives the 8 bytes of a reply. Those after the code mean nothing after
// CONNECT.
func answer4(r Reply) []byte {
	return []byte{0, r.Code.socks4(), 0, 0, 0, 0, 0, 0}
}

// answerBind4 gives the 8 bytes of a reply to another request. An address that is not of
// IPv4 is left out.
func answerBind4(r Reply) []byte {
	b := answer4(r)
	binary.BigEndian.PutUint16(b[2:], r.Bound.Port())
	if ip := r.Bound.Addr().Unmap(); ip.Is4() {
		copy(b[4:], ip.AsSlice())
	}
	return b
}

// socks4 is the code in SOCKS 4, which knows no more than yes and no.
func (c Code) socks4() byte {
	if c == Succeeded {
		return granted4
	}
	return rejected4
}
