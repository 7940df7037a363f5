package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// GSSContext is an established GSS-API context, as crypto/gss has them. It is
// safe for concurrent use.
type GSSContext interface {
	// Wrap appends a token with the payload to dst, which shares no memory with
	// it. The payload is sealed, or only protected against change.
	Wrap(dst, payload []byte, seal bool) []byte

	// Unwrap gives the payload of a stream's next token and fails for any other.
	// It may overwrite the token; the payload may alias it.
	Unwrap(token []byte) (payload []byte, sealed bool, err error)

	// UnwrapDatagram is Unwrap for tokens that may get lost or overtake each
	// other. It takes none twice.
	UnwrapDatagram(token []byte) (payload []byte, sealed bool, err error)
}

// GSSGrant is what comes of an app's token: who the app is, and what protects
// its messages from now on.
type GSSGrant struct {
	User       string     // for [Request]; not empty
	Context    GSSContext // which nobody else uses; not nil
	Reply      []byte     // for the app, at most 65535 bytes; may be empty
	Protection GSSProtection

	// NEC lets the app propose a level in the clear, as the SOCKS library of NEC
	// does. Somebody on the path could then change it, but not to less than
	// Protection demands.
	NEC bool
}

// GSSProtection says how well a connection must be protected between app and
// door, in answer to what the app proposes. The zero value is the strictest.
type GSSProtection byte

// The kinds of protection. curl speaks no level but 0: releases up to 8.16
// propose it, later ones propose 2 and fail unless the answer is 0.
// GSSUnprotected alone serves them all.
const (
	GSSSealed      GSSProtection = iota // level 2
	GSSSigned                           // the proposed level, if it is not 0
	GSSAsProposed                       // the proposed level
	GSSUnprotected                      // level 0: who the app is, and nothing else
)

// gssProtections has the words of the configuration.
var gssProtections = [...]string{"require-conf", "require-integ", "prefer-client", "none"}

func (p GSSProtection) String() string {
	if int(p) < len(gssProtections) {
		return gssProtections[p]
	}
	return fmt.Sprintf("protection %d", byte(p))
}

// UnmarshalText reads require-conf, require-integ, prefer-client or none.
func (p *GSSProtection) UnmarshalText(text []byte) error {
	for i, word := range gssProtections {
		if word == string(text) {
			*p = GSSProtection(i)
			return nil
		}
	}
	return fmt.Errorf("GSS-API protection %q is none of %q", text, gssProtections)
}

// GSSLevel is a level of protection that has been agreed on.
type GSSLevel byte

// The levels of RFC 1961 section 4.3. Level 0 is none of them, but all that many
// apps speak.
const (
	GSSLevelNone            GSSLevel = 0 // plain SOCKS from now on
	GSSLevelIntegrity       GSSLevel = 1
	GSSLevelConfidentiality GSSLevel = 2
	GSSLevelSelective       GSSLevel = 3 // as the sender likes; the door seals
)

var (
	errGSSGrant       = errors.New("nobody says who the app is")
	errGSSLevel       = errors.New("the app proposes a level of protection that does not exist")
	errGSSUnprotected = errors.New("protection is demanded and the app proposes none, as curl does")
)

// answer gives the level for an app that proposes one.
func (p GSSProtection) answer(proposed GSSLevel) (GSSLevel, error) {
	switch {
	case proposed > GSSLevelSelective:
		return 0, errGSSLevel
	case p == GSSUnprotected:
		return GSSLevelNone, nil
	case p == GSSAsProposed:
		return proposed, nil
	case proposed == GSSLevelNone:
		return 0, errGSSUnprotected
	case p == GSSSigned:
		return proposed, nil
	}
	return GSSLevelConfidentiality, nil
}

// GSSChannel is what an app and a door have agreed on.
type GSSChannel struct {
	User    string
	Level   GSSLevel
	context GSSContext // nil at level 0
}

// NegotiateGSS authenticates an app that has been told to use SOCKS 5's method 01, and
// agrees on a level of protection (RFC 1961 sections 3 and 4). It reads not a byte
// more than that takes; deadlines are the caller's. What comes next, the app's
// request first of all, goes through [GSSChannel.Conn].
//
// accept is given the app's token, once. It may ask another machine, where the
// keytab is.
//
// If it fails, the app has been told that it may not come in.
func NegotiateGSS(
	ctx context.Context, in io.Reader, out io.Writer,
	accept func(ctx context.Context, token []byte) (GSSGrant, error),
) (*GSSChannel, error) {
	c, err := negotiateGSS(ctx, in, out, accept)
	if err != nil {
		// What went wrong first counts, not whether the app hears of it.
		_, _ = io.WriteString(out, gssAborted)
		return nil, fmt.Errorf("negotiate GSS-API: %w", err)
	}
	return c, nil
}

func negotiateGSS(
	ctx context.Context, in io.Reader, out io.Writer,
	accept func(ctx context.Context, token []byte) (GSSGrant, error),
) (*GSSChannel, error) {
	token, err := readGSS(in, gssToken)
	if err != nil {
		return nil, err
	}
	grant, err := accept(ctx, token)
	if err == nil && (grant.User == "" || grant.Context == nil) {
		err = errGSSGrant
	}
	if err != nil {
		return nil, err
	}
	// An empty reply tells the app that the context is established.
	if err := writeGSS(out, gssToken, grant.Reply); err != nil {
		return nil, err
	}
	level, err := grant.agree(in, out)
	if err != nil {
		return nil, err
	}
	c := &GSSChannel{User: grant.User, Level: level}
	if level != GSSLevelNone {
		c.context = grant.Context
	}
	return c, nil
}

// agree settles on a level.
func (g GSSGrant) agree(in io.Reader, out io.Writer) (GSSLevel, error) {
	message, err := readGSS(in, gssProtection)
	if err != nil {
		return 0, err
	}
	bare := g.NEC && len(message) == 1 // no token is so short
	if !bare {
		if message, _, err = g.Context.Unwrap(message); err != nil {
			return 0, fmt.Errorf("read the proposed level: %w", err)
		}
	}
	if len(message) != 1 {
		return 0, errGSSLevel
	}
	level, err := g.Protection.answer(GSSLevel(message[0]))
	if err != nil {
		return 0, err
	}
	answer := []byte{byte(level)}
	if !bare {
		answer = g.Context.Wrap(nil, answer, false)
	}
	return level, writeGSS(out, gssProtection, answer)
}

func writeGSS(out io.Writer, kind byte, token []byte) error {
	b, err := appendGSS(nil, kind, token)
	if err == nil {
		_, err = out.Write(b)
	}
	if err != nil {
		return fmt.Errorf("write GSS-API message: %w", err)
	}
	return nil
}
