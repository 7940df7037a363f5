// Package keys says who is who: the key pairs of devices and servers, the pins
// by which a device knows its server, and the invites by which a server gets
// to know a device.
//
// No private key ever leaves the machine that made it, but for those of
// [NewWireGuardKey]. Everything here that is secret prints as a placeholder,
// whatever the verb, so that a careless log line gives nothing away.
package keys

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
)

// redacted stands for a secret wherever one would be printed.
const redacted = "[secret]"

// Pin is the SHA-256 hash of a public key's SubjectPublicKeyInfo (RFC 5280
// section 4.1.2.7), as RFC 7469 uses it. Its text form is base64url without padding.
type Pin [sha256.Size]byte

// PinOf gives the pin of a certificate's key. It stays the same in every
// certificate for that key.
func PinOf(cert *x509.Certificate) Pin {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// ParsePin reads a pin's text form.
func ParsePin(s string) (Pin, error) {
	p, err := parse32(s)
	if err != nil {
		return Pin{}, errors.New("parse pin: want 43 characters of base64url")
	}
	return p, nil
}

func (p Pin) String() string { return base64.RawURLEncoding.EncodeToString(p[:]) }

// IsZero tells whether p is no pin at all.
func (p Pin) IsZero() bool { return p == Pin{} }

// MarshalText gives the text form.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what [ParsePin] reads.
func (p *Pin) UnmarshalText(text []byte) error {
	parsed, err := ParsePin(string(text))
	if err == nil {
		*p = parsed
	}
	return err
}

// parse32 reads 32 bytes of base64url in their one canonical spelling: no
// padding, no line breaks, no stray bits at the end.
func parse32(s string) (b [32]byte, err error) {
	if len(s) != base64.RawURLEncoding.EncodedLen(len(b)) {
		return b, errors.New("wrong length")
	}
	// The decoder passes over line breaks, which then leave too few bytes.
	n, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(s))
	if err != nil || n != len(b) {
		return [32]byte{}, errors.New("not base64url")
	}
	return b, nil
}
