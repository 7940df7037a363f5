package ipsec

import "fmt"

// Suite is how ESP encrypts and authenticates one way.
type Suite struct {
	Cipher    string // "aes-gcm", "aes-cbc", "chacha20-poly1305" …
	KeyBits   int    // of the cipher
	Integrity string // "hmac-sha256-128" …; empty if the cipher does it itself
}

// String gives "aes-gcm-128", or "aes-cbc-256+hmac-sha256-128".
func (s Suite) String() string {
	name := s.Cipher
	if s.KeyBits > 0 {
		name = fmt.Sprintf("%s-%d", s.Cipher, s.KeyBits)
	}
	if s.Integrity != "" {
		name += "+" + s.Integrity
	}
	return name
}
