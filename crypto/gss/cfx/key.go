package cfx

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// EncType is an encryption type of Kerberos, by its assigned number.
type EncType int32

// The encryption types that are spoken here. The older ones, those with DES and RC4
// among them, protect nothing any more and are refused.
const (
	AES128SHA1 EncType = 17 // aes128-cts-hmac-sha1-96, RFC 3962
	AES256SHA1 EncType = 18 // aes256-cts-hmac-sha1-96, RFC 3962
	AES128SHA2 EncType = 19 // aes128-cts-hmac-sha256-128, RFC 8009
	AES256SHA2 EncType = 20 // aes256-cts-hmac-sha384-192, RFC 8009
)

func (t EncType) String() string {
	switch t {
	case AES128SHA1:
		return "aes128-cts-hmac-sha1-96"
	case AES256SHA1:
		return "aes256-cts-hmac-sha1-96"
	case AES128SHA2:
		return "aes128-cts-hmac-sha256-128"
	case AES256SHA2:
		return "aes256-cts-hmac-sha384-192"
	}
	return fmt.Sprintf("encryption type %d", int32(t))
}

// ErrEncType says that a key is of an encryption type that is not spoken here.
var ErrEncType = errors.New("encryption type is not supported")

// keySize is the length of a type's keys in bytes, or 0 for a type that is not
// known.
func (t EncType) keySize() int {
	switch t {
	case AES128SHA1, AES128SHA2:
		return 16
	case AES256SHA1, AES256SHA2:
		return maxKey
	}
	return 0
}

const maxKey = 32

// Key is a Kerberos key. It never shows its value in a log or an error.
type Key struct {
	kind  EncType
	value [maxKey]byte // the first keySize bytes
}

// NewKey makes a key of a copy of its value. It fails with [ErrEncType] for a
// type that is not spoken here, and if the type's keys have another length.
func NewKey(t EncType, value []byte) (Key, error) {
	size := t.keySize()
	switch {
	case size == 0:
		return Key{}, fmt.Errorf("make key of %v: %w", t, ErrEncType)
	case len(value) != size:
		return Key{}, fmt.Errorf("make key of %v: it has %d bytes instead of %d", t, len(value), size)
	}
	k := Key{kind: t}
	copy(k.value[:], value)
	return k, nil
}

// Fresh gives a random key of the same type.
func (k Key) Fresh() Key {
	f := Key{kind: k.kind}
	rand.Read(f.value[:f.kind.keySize()])
	return f
}

// Type is the key's encryption type.
func (k Key) Type() EncType { return k.kind }

// Reveal gives the key's value, which is secret.
func (k Key) Reveal() []byte { return k.value[:k.kind.keySize()] }

// String says of which type the key is.
func (k Key) String() string { return "key of " + k.kind.String() }

// Format prints what [Key.String] says, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is what [Key.String] says.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Encrypt encrypts a message for a use (RFC 4120 section 7.5.1). The result
// has a random block in front of the message and a checksum behind it.
func (k Key) Encrypt(usage uint32, message []byte) []byte {
	b := make([]byte, blockSize, blockSize+len(message)+maxMAC)
	rand.Read(b)
	return newTool(k, usage).seal(append(b, message...), 0)
}

// Decrypt undoes [Key.Encrypt]. It fails with [ErrToken] if another key or use
// was meant, or if a bit is not what it was. The ciphertext is overwritten; the
// message aliases it.
func (k Key) Decrypt(usage uint32, ciphertext []byte) ([]byte, error) {
	b, err := newTool(k, usage).open(ciphertext)
	if err != nil {
		return nil, fmt.Errorf("decrypt with a %v: %w", k, err)
	}
	return b[blockSize:], nil
}
