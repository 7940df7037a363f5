package keys

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Device is a device's private half: an Ed25519 key that signs what opens a
// carrier, and an X25519 key for WireGuard. Both live in one file. A Device is
// safe for concurrent use.
type Device struct {
	signing   ed25519.PrivateKey
	wireguard *ecdh.PrivateKey
}

// NewDevice makes a device's keys.
func NewDevice() (*Device, error) {
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make device key: %w", err)
	}
	wireguard, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make device key: %w", err)
	}
	return &Device{signing: signing, wireguard: wireguard}, nil
}

// LoadDevice reads a device's key file. It refuses a file that somebody else
// could have read or written.
func LoadDevice(path string) (*Device, error) {
	blocks, err := readKeys(path, 2)
	if err != nil {
		return nil, fmt.Errorf("load device key: %w", err)
	}
	signing, ok := blocks[0].(ed25519.PrivateKey)
	wireguard, ok2 := blocks[1].(*ecdh.PrivateKey)
	if !ok || !ok2 || wireguard.Curve() != ecdh.X25519() {
		return nil, fmt.Errorf("load device key: %s holds keys of another kind; restore it from a backup or enrol the device anew", path)
	}
	return &Device{signing: signing, wireguard: wireguard}, nil
}

// Save writes the device's key file with mode 0600, whole or not at all, and
// makes its directory with mode 0700 if there is none. It replaces no file:
// the error is then an [io/fs.ErrExist].
func (d *Device) Save(path string) error {
	if err := writeKeys(path, d.signing, d.wireguard); err != nil {
		return fmt.Errorf("save device key: %w", err)
	}
	return nil
}

// Public gives the key that verifies what [Device.Sign] has signed. It names
// the device.
func (d *Device) Public() ed25519.PublicKey { return d.signing.Public().(ed25519.PublicKey) }

// Sign signs a message with the device's Ed25519 key (RFC 8032).
func (d *Device) Sign(message []byte) []byte { return ed25519.Sign(d.signing, message) }

// WireGuardPublic gives the public half of the X25519 key.
func (d *Device) WireGuardPublic() [32]byte { return [32]byte(d.wireguard.PublicKey().Bytes()) }

// ID gives the device's short name.
func (d *Device) ID() ID { return IDOf(d.Public()) }

// Format prints the device's ID, whatever the verb: the fields are secret.
func (d Device) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "device "+d.ID().String()) }

// LogValue is the device's ID.
func (d Device) LogValue() slog.Value { return slog.StringValue(d.ID().String()) }

// ID is a device's short name for people and logs: the first half of the
// SHA-256 hash of its public key. Its text form is 26 lower-case letters and
// digits. Signatures are verified with the key itself, never by the ID.
type ID [sha256.Size / 2]byte

// idText is RFC 4648's base32, in lower case so that it is easily typed and read out.
var idText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// IDOf gives the ID of the device that has a public key.
func IDOf(key ed25519.PublicKey) ID {
	sum := sha256.Sum256(key)
	return ID(sum[:])
}

// ParseID reads an ID's text form.
func ParseID(s string) (ID, error) {
	var id ID
	// Decoding passes over line breaks and stray bits; the second look does not.
	b, err := idText.DecodeString(s)
	if err == nil && len(b) == len(id) {
		id = ID(b)
	}
	if id.String() != s {
		return ID{}, errors.New("parse device id: want 26 characters of a-z and 2-7")
	}
	return id, nil
}

func (id ID) String() string { return idText.EncodeToString(id[:]) }
