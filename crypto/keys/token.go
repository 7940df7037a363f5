package keys

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Token is an invite's one-time secret: 32 random bytes. Its field is private
// so that encoders that work by reflection have nothing to encode.
type Token struct{ secret [32]byte }

// NewToken makes a token.
func NewToken() Token {
	var t Token
	_, _ = rand.Read(t.secret[:]) // never fails: crypto/rand crashes the program instead
	return t
}

// TokenFrom gives the token that has these bytes.
func TokenFrom(secret [32]byte) Token { return Token{secret} }

// ParseToken reads a token's text form. Its error does not repeat the text.
func ParseToken(s string) (Token, error) {
	b, err := parse32(s)
	if err != nil {
		return Token{}, errors.New("parse token: want 43 characters of base64url")
	}
	return Token{b}, nil
}

// Bytes gives the secret itself.
func (t Token) Bytes() [32]byte { return t.secret }

// Reveal gives the secret itself as base64url without padding.
func (t Token) Reveal() string { return base64.RawURLEncoding.EncodeToString(t.secret[:]) }

// Hash is the form in which a server stores the token. A plain SHA-256 will
// do: nobody guesses 256 random bits, however fast the hash.
func (t Token) Hash() [sha256.Size]byte { return sha256.Sum256(t.secret[:]) }

// IsZero tells whether t is no token at all.
func (t Token) IsZero() bool { return t == Token{} }

// Format prints a placeholder, whatever the verb.
func (Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String is a placeholder; see [Token.Reveal].
func (Token) String() string { return redacted }

// LogValue is a placeholder.
func (Token) LogValue() slog.Value { return slog.StringValue(redacted) }
