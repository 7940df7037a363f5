package socks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	version6   = 6
	minAuth6   = 4   // bytes of the smallest authentication reply
	minFull6   = 12  // bytes of the smallest request and operation reply
	addrAt6    = 8   // where their address begins
	usualSize6 = 128 // bytes that most messages fit into
)

// ErrVersion6 says that a message does not begin with the octet 06. A server
// answers such a request with the single octet 06 and closes.
var ErrVersion6 = errors.New("the version is not 6")

// Request6 opens a SOCKS 6 connection. Payload may follow it at once: as much
// as Options.Offer says or, without an offer, as much as the client likes.
type Request6 struct {
	Command Command // one that is not known comes through, for the server to answer
	Dst     Addr    // the wanted bind address of BIND and UDP ASSOCIATE; zero there, and with NOOP, is 0.0.0.0:0
	Options Options6
}

// AuthReply6 is a server's first answer to a [Request6]. If it is not OK and has
// no Options.Selected, it is the last one. If it has, a second one follows the
// negotiation and must not open another.
type AuthReply6 struct {
	OK      bool
	Options Options6
}

// OperationReply6 tells how a request ended. It follows an [AuthReply6] that is
// OK.
type OperationReply6 struct {
	Code    Code
	Bound   Addr // zero is 0.0.0.0:0
	Options Options6
}

// AppendBinary appends the request's bytes to b. A request that SOCKS 6 cannot
// carry, such as one for a name above 255 bytes, is an error.
func (q Request6) AppendBinary(b []byte) ([]byte, error) {
	dst := q.Dst
	if q.Command != Connect {
		dst = orAny6(dst)
	}
	err := q.check()
	if err == nil {
		b, err = appendFull6(b, byte(q.Command), dst, &q.Options, inRequest6)
	}
	if err != nil {
		return nil, fmt.Errorf("encode SOCKS 6 request: %w", err)
	}
	return b, nil
}

// ReadRequest6 reads one request and not a byte more. Its error wraps
// [ErrVersion6] if the first byte says another version, io.EOF if there is no
// byte, and io.ErrUnexpectedEOF if the request stops half-way.
func ReadRequest6(r io.Reader) (Request6, error) {
	var q Request6
	m, err := readFull6(r)
	if err == nil {
		q.Command, q.Dst = Command(m.code), m.addr
		err = q.Options.parse(m.options, inRequest6)
	}
	if q.Options.Offer != nil && q.Command != Connect {
		q.Options.Offer.InitialData = 0 // the number means nothing there
	}
	if err == nil {
		err = q.check()
	}
	if err != nil {
		return Request6{}, fmt.Errorf("read SOCKS 6 request: %w", err)
	}
	return q, nil
}

// ReadInitial6 reads the payload that follows a request with an offer, and not a byte
// more: none without an offer. It takes no more memory than twice what has come.
func ReadInitial6(r io.Reader, offer *MethodOffer6) ([]byte, error) {
	if offer == nil || offer.InitialData == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(offer.InitialData)); err != nil {
		return nil, fmt.Errorf("read SOCKS 6 initial data: %w", noEOF(err))
	}
	return b.Bytes(), nil
}

func (q *Request6) check() error {
	o := &q.Options
	switch {
	case q.Command == Noop && (q.Dst.Name != "" || q.Dst.Port != 0 || q.Dst.IP.IsValid() && !q.Dst.IP.IsUnspecified()):
		return errors.New("NOOP names a destination")
	case o.Offer != nil && o.Offer.InitialData > 0 && q.Command != Connect:
		return errors.New("initial data without CONNECT")
	case o.SessionTeardown && len(o.SessionID) == 0:
		return errors.New("session teardown without a session id")
	case o.SessionRequest && len(o.SessionID) > 0 && !o.SessionTeardown:
		return errors.New("session request within a session")
	}
	return nil
}

// AppendBinary appends the reply's bytes to b. A reply that SOCKS 6 cannot
// carry, such as one whose options contradict each other, is an error.
func (p AuthReply6) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, version6, 0, 0, 0)
	if !p.OK {
		b[start+1] = 1
	}
	err := p.check()
	if err == nil {
		b, err = appendOptions6(b, start, &p.Options, inAuthReply6)
	}
	if err != nil {
		return nil, fmt.Errorf("encode SOCKS 6 authentication reply: %w", err)
	}
	return b, nil
}

// ReadAuthReply6 reads one authentication reply and not a byte more. Its errors
// are those of [ReadRequest6]. A server that does not take the request for one
// of SOCKS 6 answers with a lone 06, which reads as io.ErrUnexpectedEOF.
func ReadAuthReply6(r io.Reader) (AuthReply6, error) {
	var p AuthReply6
	err := p.read(r)
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return AuthReply6{}, fmt.Errorf("read SOCKS 6 authentication reply: %w", err)
	}
	return p, nil
}

func (p *AuthReply6) read(r io.Reader) error {
	b := make([]byte, minAuth6, usualSize6)
	if err := readHead6(r, b); err != nil {
		return err
	}
	if b[1] > 1 {
		return fmt.Errorf("reply type is %d", b[1])
	}
	size, err := optionsSize6(b)
	if err != nil {
		return err
	}
	if b, err = readMore6(r, b, size); err != nil {
		return err
	}
	p.OK = b[1] == 0
	return p.Options.parse(b[minAuth6:], inAuthReply6)
}

func (p *AuthReply6) check() error {
	o := &p.Options
	switch {
	case o.TokenAccepted && o.TokenRejected:
		return errors.New("token is both accepted and rejected")
	case p.OK && (o.SessionInvalid || o.TokenRejected):
		return errors.New("authentication is called good in spite of a bad session or token")
	case !p.OK && o.SessionOK:
		return errors.New("authentication is called bad within a good session")
	}
	return nil
}

// AppendBinary appends the reply's bytes to b. A reply that SOCKS 6 cannot
// carry is an error.
func (p OperationReply6) AppendBinary(b []byte) ([]byte, error) {
	b, err := appendFull6(b, byte(p.Code), orAny6(p.Bound), &p.Options, inOperationReply6)
	if err != nil {
		return nil, fmt.Errorf("encode SOCKS 6 operation reply: %w", err)
	}
	return b, nil
}

// ReadOperationReply6 reads one operation reply and not a byte more. Its errors
// are those of [ReadRequest6].
func ReadOperationReply6(r io.Reader) (OperationReply6, error) {
	var p OperationReply6
	m, err := readFull6(r)
	if err == nil {
		p.Code, p.Bound = Code(m.code), m.addr
		err = p.Options.parse(m.options, inOperationReply6)
	}
	if err != nil {
		return OperationReply6{}, fmt.Errorf("read SOCKS 6 operation reply: %w", err)
	}
	return p, nil
}

// full6 is the layout of requests and operation replies alike: 06, a code, the
// options' length, the port, 00, the address type, the address, the options.
type full6 struct {
	code    byte
	addr    Addr
	options []byte
}

// readFull6 takes two reads at most from a reader that has it all: every such
// message has 12 bytes, and these tell how many more there are.
func readFull6(r io.Reader) (m full6, err error) {
	b := make([]byte, minFull6, usualSize6)
	if err := readHead6(r, b); err != nil {
		return m, err
	}
	options, err := optionsSize6(b)
	if err != nil {
		return m, err
	}
	size, err := addrSize6(b[7], b[addrAt6])
	if err != nil {
		return m, err
	}
	end := addrAt6 + size
	if b, err = readMore6(r, b, end+options-minFull6); err != nil {
		return m, err
	}
	m.code, m.options = b[1], b[end:]
	m.addr, err = parseAddr6(b[7], b[addrAt6:end], binary.BigEndian.Uint16(b[4:]))
	return m, err
}

func appendFull6(b []byte, code byte, a Addr, o *Options6, in place6) ([]byte, error) {
	a, err := checkAddr6(a)
	if err != nil {
		return nil, err
	}
	start := len(b)
	b = append(b, version6, code, 0, 0)
	b = binary.BigEndian.AppendUint16(b, a.Port)
	b = append(b, 0, addrType6(a))
	return appendOptions6(appendHost6(b, a), start, o, in)
}

// readHead6 fills b, which a message cannot be shorter than. It judges the first
// byte before it waits for a second, as other protocols may never send one.
func readHead6(r io.Reader, b []byte) error {
	n, err := io.ReadAtLeast(r, b, 1)
	if err != nil {
		return err
	}
	if b[0] != version6 {
		return ErrVersion6
	}
	return readRest6(r, b[n:])
}

// readMore6 appends n bytes to b. The caller has bounded n.
func readMore6(r io.Reader, b []byte, n int) ([]byte, error) {
	have := len(b)
	b = append(b, make([]byte, n)...)
	return b, readRest6(r, b[have:])
}

func readRest6(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
