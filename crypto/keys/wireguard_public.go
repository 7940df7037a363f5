package keys

import (
	"encoding/base64"
	"errors"
)

// WireGuardText writes a WireGuard public key as its tools do: 44 characters of
// base64.
func WireGuardText(public [32]byte) string { return base64.StdEncoding.EncodeToString(public[:]) }

// ParseWireGuardPublic reads what [WireGuardText] has written.
func ParseWireGuardPublic(s string) (public [32]byte, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(public) || len(s) != 44 {
		return public, errors.New("parse wireguard key: want 44 characters of base64")
	}
	return [32]byte(b), nil
}
