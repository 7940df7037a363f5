package tunnel

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Version is the version of the protocol in PROTOCOL.md.
const Version = 1

// Sizes of the messages that open a carrier, in bytes. Every opening has one
// size and every answer another, so that a peer can read them before it has
// allocated anything for whoever sends them.
const (
	OpeningSize = 256
	AnswerSize  = 128
)

const (
	kindHello = 1
	kindJoin  = 2

	signatureAt = OpeningSize - ed25519.SignatureSize
	nameAt      = 100
	maxName     = signatureAt - nameAt - 1 // a length octet goes before the name
)

// Place says what an opening is bound to: the server it is meant for, and the
// very carrier that it travels on. An opening signed for one place is worth
// nothing at another.
type Place struct {
	Server  [32]byte // SHA-256 of the server key's SubjectPublicKeyInfo
	Carrier [32]byte // on TLS: what the exporter gives for [ExporterLabel]
}

// ExporterLabel is the TLS exporter label (RFC 8446 section 7.5) for [Place].Carrier; its
// context is empty.
const ExporterLabel = "EXPORTER-adit-attach"

// MaxLanes is how many lanes a session may have at once. More would not be
// faster, and each has buffers of its own at both ends.
const MaxLanes = 8

// Hello asks to attach a carrier to a lane of a session: to a new session if
// Session is zero, and to a lane that is new if the session has none of that number
// and Epoch is 1. Each lane is a pipe of its own, with epochs and offsets of its own.
type Hello struct {
	Device   ed25519.PublicKey
	Session  [16]byte
	Lane     byte   // its number: below what [Welcome].Lanes says, and 0 in a new session
	Epoch    uint64 // counts the lane's carriers: an attach must be above the last one
	Received uint64 // absolute offset of the next byte that the device waits for
}

// Join asks to enrol a device by means of an invite's token.
type Join struct {
	Device    ed25519.PublicKey
	WireGuard [32]byte // X25519 public key
	Token     [32]byte
	Name      string // what the device's owner calls it, at most 91 bytes of UTF-8
}

// Signer signs openings: a device's Ed25519 private key.
type Signer interface {
	Public() ed25519.PublicKey
	Sign(message []byte) []byte
}

// Sign gives the opening's bytes for one place. h.Device is taken from the
// signer.
func (h Hello) Sign(key Signer, at Place) []byte {
	b := newOpening(kindHello, key.Public())
	copy(b[36:52], h.Session[:])
	binary.BigEndian.PutUint64(b[52:60], h.Epoch)
	binary.BigEndian.PutUint64(b[60:68], h.Received)
	b[68] = h.Lane
	return seal(b, key, at)
}

// Sign gives the opening's bytes for one place. j.Device is taken from the
// signer.
func (j Join) Sign(key Signer, at Place) ([]byte, error) {
	if len(j.Name) > maxName {
		return nil, fmt.Errorf("device name has %d bytes, more than %d", len(j.Name), maxName)
	}
	b := newOpening(kindJoin, key.Public())
	copy(b[36:68], j.WireGuard[:])
	copy(b[68:100], j.Token[:])
	b[nameAt] = byte(len(j.Name))
	copy(b[nameAt+1:], j.Name)
	return seal(b, key, at), nil
}

func newOpening(kind byte, device ed25519.PublicKey) []byte {
	b := make([]byte, OpeningSize)
	b[0], b[1] = Version, kind
	copy(b[4:36], device)
	return b
}

func seal(b []byte, key Signer, at Place) []byte {
	copy(b[signatureAt:], key.Sign(signed(nil, b, at)))
	return b
}

// signedSize is the length of what signed gives.
const signedSize = 16 + 64 + signatureAt

// signed appends what the device's signature covers: a label that no other use
// of the key has, the place, and the opening up to the signature.
func signed(m, b []byte, at Place) []byte {
	m = append(m, "adit opening 1\x00\x00"...)
	m = append(m, at.Server[:]...)
	m = append(m, at.Carrier[:]...)
	return append(m, b[:signatureAt]...)
}

// ErrNoOpening says that bytes are no opening at all, or none for this place.
// Whoever sent them has proved nothing and is told nothing.
var ErrNoOpening = errors.New("not an opening for this carrier")

// Opening is a verified opening: exactly one of Hello and Join is set, and its
// device holds the private key.
type Opening struct {
	Hello *Hello
	Join  *Join
}

// OpenAt verifies an opening that arrived at a place. Its error is
// [ErrNoOpening].
func OpenAt(b []byte, at Place) (Opening, error) {
	if len(b) != OpeningSize || b[0] != Version || b[2] != 0 || b[3] != 0 {
		return Opening{}, ErrNoOpening
	}
	// Whoever has proved nothing yet costs no memory.
	var room [signedSize]byte
	if !ed25519.Verify(b[4:36], signed(room[:0], b, at), b[signatureAt:]) {
		return Opening{}, ErrNoOpening
	}
	device := ed25519.PublicKey(slices.Clone(b[4:36]))
	switch b[1] {
	case kindHello:
		h := &Hello{Device: device, Epoch: binary.BigEndian.Uint64(b[52:]), Received: binary.BigEndian.Uint64(b[60:]), Lane: b[68]}
		copy(h.Session[:], b[36:])
		return Opening{Hello: h}, nil
	case kindJoin:
		n := int(b[nameAt])
		if n > maxName {
			return Opening{}, ErrNoOpening
		}
		j := &Join{Device: device, Name: string(b[nameAt+1 : nameAt+1+n])}
		copy(j.WireGuard[:], b[36:])
		copy(j.Token[:], b[68:])
		return Opening{Join: j}, nil
	}
	return Opening{}, ErrNoOpening
}

// Refusal says why a server turns away a device that has proved who it is.
// It is an error.
type Refusal byte

// The refusals. Only these numbers cross the wire; each end has its own words.
const (
	RefusedVersion       Refusal = 1 // the server speaks no version that the device does
	RefusedDeviceRevoked Refusal = 2
	RefusedUserDisabled  Refusal = 3
	RefusedInviteExpired Refusal = 4
	RefusedInviteUsed    Refusal = 5
	RefusedBusy          Refusal = 6 // a limit is reached, or the server is going down: try again later
	RefusedSession       Refusal = 7 // the session, or its lane, is not known any more: start a new one
	RefusedDeviceKnown   Refusal = 8 // join: the device is enrolled already
	RefusedStale         Refusal = 9 // a carrier of a later epoch is attached to the lane
)

func (r Refusal) Error() string {
	switch r {
	case RefusedVersion:
		return "the server speaks another version of adit's protocol"
	case RefusedDeviceRevoked:
		return "this device has been revoked"
	case RefusedUserDisabled:
		return "this device's user is disabled"
	case RefusedInviteExpired:
		return "the invite has expired"
	case RefusedInviteUsed:
		return "the invite has been used already"
	case RefusedBusy:
		return "the server takes no more sessions at the moment"
	case RefusedSession:
		return "the server does not know this session any more"
	case RefusedDeviceKnown:
		return "this device is enrolled already"
	case RefusedStale:
		return "the session has a later carrier already"
	}
	return fmt.Sprintf("the server refused with code %d", byte(r))
}

// Temporary tells whether a later opening may be taken.
func (r Refusal) Temporary() bool { return r == RefusedBusy || r == RefusedStale }

// Welcome is the answer to a [Hello] or [Join] that was taken. After a Join only what
// says how to reach the server otherwise is set, and the carrier ends.
type Welcome struct {
	Session  [16]byte
	Epoch    uint64
	Received uint64 // absolute offset of the next byte that the server waits for
	Streams  uint32 // how many streams the device may have open at once in a lane
	Grace    uint32 // how many seconds a lane outlives its last carrier
	Lanes    byte   // how many lanes a session may have; 0 means 1

	// WireGuard is the server's X25519 public key for carriers over WireGuard, and WireGuardPort
	// the UDP port at its address. Port 0: it takes none.
	WireGuard     [32]byte
	WireGuardPort uint16

	// IPsec is where the server takes carriers over IPsec: without an address, at its own.
	// Port 0: it takes none.
	IPsec netip.AddrPort

	// Key is what those know the server by: the SHA-256 of its key's SubjectPublicKeyInfo.
	// It is for who joins, and after a Hello it is zero.
	Key [32]byte
}

// Bytes gives the answer's bytes.
func (w Welcome) Bytes() []byte {
	b := make([]byte, AnswerSize)
	b[0] = Version
	if w.Key != [32]byte{} {
		copy(b[4:36], w.Key[:])
	} else {
		copy(b[4:20], w.Session[:])
		binary.BigEndian.PutUint64(b[20:], w.Epoch)
		binary.BigEndian.PutUint64(b[28:], w.Received)
	}
	binary.BigEndian.PutUint32(b[36:], w.Streams)
	binary.BigEndian.PutUint32(b[40:], w.Grace)
	b[44] = w.Lanes
	copy(b[64:96], w.WireGuard[:])
	binary.BigEndian.PutUint16(b[96:], w.WireGuardPort)
	binary.BigEndian.PutUint16(b[98:], w.IPsec.Port())
	if at := w.IPsec.Addr(); at.IsValid() {
		at16 := at.As16()
		copy(b[100:116], at16[:])
	}
	return b
}

// Bytes gives the answer's bytes.
func (r Refusal) Bytes() []byte {
	b := make([]byte, AnswerSize)
	b[0], b[1] = Version, byte(r)
	return b
}

// ParseAnswer reads the server's answer. Its error is a [Refusal] if the
// server has refused.
func ParseAnswer(b []byte) (Welcome, error) {
	if len(b) != AnswerSize {
		return Welcome{}, fmt.Errorf("read the server's answer: %d bytes, want %d", len(b), AnswerSize)
	}
	if b[0] != Version {
		return Welcome{}, RefusedVersion
	}
	if b[1] != 0 {
		return Welcome{}, Refusal(b[1])
	}
	w := Welcome{
		Epoch:    binary.BigEndian.Uint64(b[20:]),
		Received: binary.BigEndian.Uint64(b[28:]),
		Streams:  binary.BigEndian.Uint32(b[36:]),
		Grace:    binary.BigEndian.Uint32(b[40:]),
		Lanes:    b[44],

		WireGuardPort: binary.BigEndian.Uint16(b[96:]),
	}
	copy(w.Session[:], b[4:])
	copy(w.WireGuard[:], b[64:])
	at := netip.AddrFrom16([16]byte(b[100:116])).Unmap()
	if at.IsUnspecified() {
		at = netip.Addr{}
	}
	w.IPsec = netip.AddrPortFrom(at, binary.BigEndian.Uint16(b[98:]))
	return w, nil
}

// ParseJoined reads the server's answer to a [Join], as ParseAnswer does that to a [Hello].
func ParseJoined(b []byte) (Welcome, error) {
	w, err := ParseAnswer(b)
	if err != nil {
		return w, err
	}
	w.Session, w.Epoch, w.Received, w.Key = [16]byte{}, 0, 0, [32]byte(b[4:36])
	return w, nil
}

// Arrival is an opening that a listener has read from a new carrier and not
// yet judged.
type Arrival struct {
	Opening    []byte // OpeningSize bytes, not verified
	Place      Place
	Local      netip.AddrPort // where it has come in; not valid if that is not known
	Remote     netip.AddrPort
	Protection Protection

	// Below tells what protects the path below the carrier at the moment, in the words of
	// rules: "ipsec". nil: nothing is known to. It is safe for concurrent use.
	Below func() []string

	// Keep has everything on the carrier go by the IPsec that protects it now, or not at all, from
	// now on. The error says that this cannot be had. nil: it never can. It is safe for
	// concurrent use, and costs little once it has been called.
	Keep func() error

	// WireGuard is the X25519 key that the other end has proved to hold; zeros where the
	// carrier asks for none.
	WireGuard [32]byte
}

// Protection says what keeps a carrier's bytes secret, in words for people and
// for the record.
type Protection struct {
	Carrier     string // "tls"
	Version     string // "TLS 1.3"
	Cipher      string // "TLS_AES_128_GCM_SHA256"
	KeyExchange string // "X25519MLKEM768"
	Fingerprint string // the ClientHello that the client imitates; empty on the server
}
