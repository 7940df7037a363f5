package gss

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/adit-net/adit/crypto/gss/cfx"
)

// replyPart is an EncAPRepPart, with which an acceptor proves that it could
// read the ticket (RFC 4120 section 5.5.2).
type replyPart struct {
	time     time.Time // what the authenticator says, exactly
	micros   int       // likewise
	key      *cfx.Key  // what protects messages from now on; nil: what the app proposed
	sequence uint32
}

// token gives the part as the app is to get it: encrypted with the ticket's
// session key.
func (p replyPart) token(m mechanism, session cfx.Key) ([]byte, error) {
	part, err := p.encode()
	if err != nil {
		return nil, err
	}
	return encodeReply(m, session.Type(), session.Encrypt(usageReply, part))
}

func (p replyPart) encode() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(application(27), sequence(func(b *cryptobyte.Builder) {
		b.AddASN1(field(0), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(p.time.UTC()) })
		addInt(b, 1, int64(p.micros))
		if p.key != nil {
			b.AddASN1(field(2), sequence(func(b *cryptobyte.Builder) {
				addInt(b, 0, int64(p.key.Type()))
				addBytes(b, 1, p.key.Reveal())
			}))
		}
		addInt(b, 3, int64(p.sequence))
	}))
	part, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode reply: %w", err)
	}
	return part, nil
}

// encodeReply puts an encrypted part into an AP-REP, and that into a token.
func encodeReply(m mechanism, kind cfx.EncType, ciphertext []byte) ([]byte, error) {
	const version, isReply = 5, 15
	var b cryptobyte.Builder
	b.AddASN1(application(15), sequence(func(b *cryptobyte.Builder) {
		addInt(b, 0, version)
		addInt(b, 1, isReply)
		b.AddASN1(field(2), sequence(func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(kind))
			addBytes(b, 2, ciphertext)
		}))
	}))
	reply, err := b.Bytes()
	if err == nil {
		reply, err = frameToken(m, reply)
	}
	if err != nil {
		return nil, fmt.Errorf("encode reply: %w", err)
	}
	return reply, nil
}

// field is the tag of a numbered field.
func field(n asn1.Tag) asn1.Tag { return n.ContextSpecific().Constructed() }

func sequence(fields cryptobyte.BuilderContinuation) cryptobyte.BuilderContinuation {
	return func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, fields) }
}

func addInt(b *cryptobyte.Builder, n asn1.Tag, v int64) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) { b.AddASN1Int64(v) })
}

func addBytes(b *cryptobyte.Builder, n asn1.Tag, v []byte) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) })
}
