package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// MaxInitialData6 is how many bytes of payload may follow a request that
// offers authentication methods.
const MaxInitialData6 = 1 << 14

const (
	maxOptions6     = 20 << 10 // bytes of options in one message
	maxOptionCount6 = 64
	maxWindow6      = 1<<31 - 1
)

// Options6 are the options of a SOCKS 6 message. Each stands in some kinds of
// message only: elsewhere it is an error to encode it, and it is dropped when it
// is read, as unknown options are. What was read may alias one buffer, which
// belongs to the message.
type Options6 struct {
	Stack []StackOption6 // request, operation reply

	Offer    *MethodOffer6 // request
	Selected *byte         // authentication reply: the method to go on with; 255 is none
	Auth     []AuthData6   // request, authentication reply; one for each method

	SessionRequest  bool   // request: asks for a session
	SessionID       []byte // all three, though servers send it with the authentication reply; its length is a multiple of 4
	SessionOK       bool   // authentication reply
	SessionInvalid  bool   // authentication reply that is not OK
	SessionTeardown bool   // request with a SessionID: ends that session

	WindowRequest uint32        // request: asks for so many tokens, at most 2^31-1
	Window        *TokenWindow6 // authentication reply
	Token         *uint32       // request: spends a token of the session's window
	TokenAccepted bool          // authentication reply
	TokenRejected bool          // authentication reply that is not OK
}

// MethodOffer6 says that a client is willing to authenticate in the connection.
type MethodOffer6 struct {
	InitialData uint16 // CONNECT: how many bytes of payload follow the request at once, at most [MaxInitialData6]
	Methods     []byte // by their numbers in SOCKS 5, best first; 0, which all clients support, is dropped when it is read
}

// AuthData6 is what an authentication method sends along with a request or its
// reply. Method 2 sends the messages of RFC 1929.
type AuthData6 struct {
	Method byte
	Data   []byte // up to three zeros may be behind it when it is read: it must tell its own length
}

// String leaves the data out, which may be secret.
func (a AuthData6) String() string {
	return fmt.Sprintf("method %d, %d bytes", a.Method, len(a.Data))
}

// TokenWindow6 is a run of tokens, which count modulo 2^32.
type TokenWindow6 struct {
	Base uint32
	Size uint32 // 1 to 2^31-1
}

type kind6 uint16

const (
	kindStack6           kind6 = 1
	kindOffer6           kind6 = 2
	kindSelected6        kind6 = 3
	kindAuthData6        kind6 = 4
	kindSessionRequest6  kind6 = 5
	kindSessionID6       kind6 = 6
	kindSessionOK6       kind6 = 8
	kindSessionInvalid6  kind6 = 9
	kindSessionTeardown6 kind6 = 10
	kindWindowRequest6   kind6 = 11
	kindWindow6          kind6 = 12
	kindToken6           kind6 = 13
	kindTokenAccepted6   kind6 = 14
	kindTokenRejected6   kind6 = 15
)

// place6 is a set of kinds of message.
type place6 byte

const (
	inRequest6 place6 = 1 << iota
	inAuthReply6
	inOperationReply6
)

// places tells where an option may stand; nowhere if it is not known.
func (k kind6) places() place6 {
	switch k {
	case kindStack6:
		return inRequest6 | inOperationReply6
	case kindSessionID6:
		return inRequest6 | inAuthReply6 | inOperationReply6
	case kindAuthData6:
		return inRequest6 | inAuthReply6
	case kindOffer6, kindSessionRequest6, kindSessionTeardown6, kindWindowRequest6, kindToken6:
		return inRequest6
	case kindSelected6, kindSessionOK6, kindSessionInvalid6, kindWindow6, kindTokenAccepted6, kindTokenRejected6:
		return inAuthReply6
	}
	return 0
}

// holds tells whether an option can have n bytes of data.
func (k kind6) holds(n int) bool {
	switch k {
	case kindStack6, kindOffer6, kindAuthData6, kindSessionID6:
		return n >= 4
	case kindSelected6, kindWindowRequest6, kindToken6:
		return n == 4
	case kindWindow6:
		return n == 8
	}
	return n == 0
}

// optionsSize6 reads the length of a message's options, from where every
// message has it.
func optionsSize6(b []byte) (int, error) {
	size := int(binary.BigEndian.Uint16(b[2:]))
	if size > maxOptions6 || size%4 != 0 {
		return 0, fmt.Errorf("options have %d bytes", size)
	}
	return size, nil
}

// parse adds a message's options to none.
func (o *Options6) parse(b []byte, in place6) error {
	var seen uint32
	for n := 0; len(b) > 0; n++ {
		if n == maxOptionCount6 {
			return errTooManyOptions6
		}
		// Options begin and end at multiples of 4, so there are 4 bytes.
		kind, size := kind6(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
		if size < 4 || size%4 != 0 || size > len(b) {
			return fmt.Errorf("option %d has %d bytes, with %d left", kind, size, len(b))
		}
		data := b[4:size:size]
		b = b[size:]
		if kind.places()&in == 0 {
			continue
		}
		if !kind.holds(len(data)) {
			return fmt.Errorf("option %d has %d bytes", kind, size)
		}
		if many := kind == kindStack6 || kind == kindAuthData6; !many && seen&(1<<kind) != 0 {
			return fmt.Errorf("option %d comes twice", kind)
		}
		seen |= 1 << kind
		if err := o.add(kind, data); err != nil {
			return fmt.Errorf("option %d: %w", kind, err)
		}
	}
	return o.check()
}

// add takes the data of an option, which has a size that its kind can have.
func (o *Options6) add(kind kind6, data []byte) error {
	switch kind {
	case kindStack6:
		return o.addStack(data)
	case kindOffer6:
		methods := slices.DeleteFunc(data[2:], func(m byte) bool { return m == 0 })
		o.Offer = &MethodOffer6{InitialData: binary.BigEndian.Uint16(data), Methods: methods}
	case kindSelected6:
		o.Selected = &data[0]
	case kindAuthData6:
		o.Auth = append(o.Auth, AuthData6{Method: data[0], Data: data[1:]})
	case kindSessionRequest6:
		o.SessionRequest = true
	case kindSessionID6:
		o.SessionID = data
	case kindSessionOK6:
		o.SessionOK = true
	case kindSessionInvalid6:
		o.SessionInvalid = true
	case kindSessionTeardown6:
		o.SessionTeardown = true
	case kindWindowRequest6:
		o.WindowRequest = binary.BigEndian.Uint32(data)
		if o.WindowRequest == 0 {
			return errWindow6
		}
	case kindWindow6:
		o.Window = &TokenWindow6{Base: binary.BigEndian.Uint32(data), Size: binary.BigEndian.Uint32(data[4:])}
	case kindToken6:
		o.Token = new(binary.BigEndian.Uint32(data))
	case kindTokenAccepted6:
		o.TokenAccepted = true
	case kindTokenRejected6:
		o.TokenRejected = true
	}
	return nil
}

var (
	errTooManyOptions6 = errors.New("there are more than 64 options")
	errWindow6         = errors.New("a token window has 1 to 2^31-1 tokens")
)

// check finds what holds in whatever message the options are.
func (o *Options6) check() error {
	switch {
	case o.Offer != nil && o.Offer.InitialData > MaxInitialData6:
		return fmt.Errorf("there are %d bytes of initial data", o.Offer.InitialData)
	case len(o.SessionID)%4 != 0:
		return fmt.Errorf("session id has %d bytes", len(o.SessionID))
	case o.WindowRequest > maxWindow6, o.Window != nil && (o.Window.Size == 0 || o.Window.Size > maxWindow6):
		return errWindow6
	}
	for i, a := range o.Auth {
		if slices.ContainsFunc(o.Auth[:i], func(b AuthData6) bool { return a.Method == b.Method }) {
			return fmt.Errorf("two options have data for authentication method %d", a.Method)
		}
	}
	return checkStack6(o.Stack)
}

// appendOptions6 completes a message that begins at b[start]: it appends the
// options and sets their length.
func appendOptions6(b []byte, start int, o *Options6, in place6) ([]byte, error) {
	if len(o.Stack)+len(o.Auth) > maxOptionCount6 {
		return nil, errTooManyOptions6
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	w := optionWriter6{b: b, start: len(b), in: in}
	o.write(&w)
	if w.err != nil {
		return nil, w.err
	}
	binary.BigEndian.PutUint16(w.b[start+2:], uint16(len(w.b)-w.start))
	return w.b, nil
}

func (o *Options6) write(w *optionWriter6) {
	for _, s := range o.Stack {
		w.put(kindStack6, s.data()...)
	}
	if o.Offer != nil {
		w.put(kindOffer6, append(binary.BigEndian.AppendUint16(nil, o.Offer.InitialData), o.Offer.Methods...)...)
	}
	if o.Selected != nil {
		w.put(kindSelected6, *o.Selected)
	}
	for _, a := range o.Auth {
		w.put(kindAuthData6, append([]byte{a.Method}, a.Data...)...)
	}
	w.flag(kindSessionRequest6, o.SessionRequest)
	if len(o.SessionID) > 0 {
		w.put(kindSessionID6, o.SessionID...)
	}
	w.flag(kindSessionOK6, o.SessionOK)
	w.flag(kindSessionInvalid6, o.SessionInvalid)
	w.flag(kindSessionTeardown6, o.SessionTeardown)
	if o.WindowRequest != 0 {
		w.put(kindWindowRequest6, binary.BigEndian.AppendUint32(nil, o.WindowRequest)...)
	}
	if o.Window != nil {
		data := binary.BigEndian.AppendUint32(nil, o.Window.Base)
		w.put(kindWindow6, binary.BigEndian.AppendUint32(data, o.Window.Size)...)
	}
	if o.Token != nil {
		w.put(kindToken6, binary.BigEndian.AppendUint32(nil, *o.Token)...)
	}
	w.flag(kindTokenAccepted6, o.TokenAccepted)
	w.flag(kindTokenRejected6, o.TokenRejected)
}

// optionWriter6 appends options to b until one of them does not fit.
type optionWriter6 struct {
	b     []byte
	start int
	in    place6
	count int
	err   error
}

func (w *optionWriter6) flag(kind kind6, set bool) {
	if set {
		w.put(kind)
	}
}

func (w *optionWriter6) put(kind kind6, data ...byte) {
	size := 4 + aligned6(len(data))
	switch {
	case w.err != nil:
		return
	case kind.places()&w.in == 0:
		w.err = fmt.Errorf("option %d does not belong here", kind)
		return
	case w.count == maxOptionCount6:
		w.err = errTooManyOptions6
		return
	case len(w.b)-w.start+size > maxOptions6:
		w.err = fmt.Errorf("options have more than %d bytes", maxOptions6)
		return
	}
	w.count++
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(kind))
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(size))
	w.b = append(w.b, data...)
	w.b = append(w.b, make([]byte, size-4-len(data))...)
}
