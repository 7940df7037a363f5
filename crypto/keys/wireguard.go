package keys

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
)

// WireGuardKey is an X25519 private key (RFC 7748). It prints as its public
// half. The zero value is no key.
type WireGuardKey struct{ private, public [32]byte }

func newWireGuardKey(key *ecdh.PrivateKey) WireGuardKey {
	return WireGuardKey{private: [32]byte(key.Bytes()), public: [32]byte(key.PublicKey().Bytes())}
}

// NewWireGuardKey makes a key for somebody who has no adit to make his own. It is
// the one private key here that is handed out, and whoever makes it forgets it.
func NewWireGuardKey() (WireGuardKey, error) {
	var scalar [32]byte
	_, _ = rand.Read(scalar[:]) // it never fails
	// WireGuard's tools write scalars down as RFC 7748 section 5 decodes them.
	scalar[0] &= 248
	scalar[31] = scalar[31]&127 | 64
	key, err := ecdh.X25519().NewPrivateKey(scalar[:])
	if err != nil {
		return WireGuardKey{}, fmt.Errorf("make wireguard key: %w", err)
	}
	return newWireGuardKey(key), nil
}

// Public gives the public half.
func (k WireGuardKey) Public() [32]byte { return k.public }

// Reveal gives the private half, for the code that does the handshake, or that
// hands the key to whom it was made for, and for nobody else.
func (k WireGuardKey) Reveal() [32]byte { return k.private }

// IsZero tells whether k is no key at all.
func (k WireGuardKey) IsZero() bool { return k == WireGuardKey{} }

// Format prints the public half, whatever the verb.
func (k WireGuardKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.text()) }

// LogValue is the public half.
func (k WireGuardKey) LogValue() slog.Value { return slog.StringValue(k.text()) }

func (k WireGuardKey) text() string {
	return "wireguard " + base64.StdEncoding.EncodeToString(k.public[:])
}

// WireGuard gives the device's key for WireGuard.
func (d *Device) WireGuard() WireGuardKey { return newWireGuardKey(d.wireguard) }

// wireGuardLabel separates the server's WireGuard key from whatever else may
// come of its one key.
const wireGuardLabel = "adit wireguard server key 1"

// WireGuard gives the server's key for WireGuard. It comes of the TLS key by
// HKDF (RFC 5869), so whoever restores the one from a backup has the other too,
// and a server that changes its identity changes both. It tells nothing about the TLS key.
func (s *Server) WireGuard() (WireGuardKey, error) {
	scalar, err := s.key.Bytes()
	if err != nil {
		return WireGuardKey{}, fmt.Errorf("derive wireguard key: %w", err)
	}
	seed, err := hkdf.Key(sha256.New, scalar, nil, wireGuardLabel, 32)
	if err != nil {
		return WireGuardKey{}, fmt.Errorf("derive wireguard key: %w", err)
	}
	key, err := ecdh.X25519().NewPrivateKey(seed)
	if err != nil {
		return WireGuardKey{}, fmt.Errorf("derive wireguard key: %w", err)
	}
	return newWireGuardKey(key), nil
}
