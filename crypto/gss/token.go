package gss

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// application is an ASN.1 tag of class APPLICATION, as Kerberos has them.
func application(n asn1.Tag) asn1.Tag { return 0x60 | n }

// mechanism is an object identifier, as its content octets.
type mechanism string

// Kerberos 5 has two: that of RFC 1964, and one that old versions of Windows
// made of it by mistake.
const (
	kerberos        mechanism = "\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"
	kerberosWindows mechanism = "\x2a\x86\x48\x82\xf7\x12\x01\x02\x02"
)

// What a token of a mechanism starts with (RFC 4121 section 4.1).
const (
	idRequest = "\x01\x00"
	idReply   = "\x02\x00"
)

// cutToken takes the frame off an initial token (RFC 2743 section 3.1).
func cutToken(token []byte) (m mechanism, request []byte, err error) {
	in := cryptobyte.String(token)
	var framed, oid cryptobyte.String
	if !in.ReadASN1(&framed, application(0)) || !in.Empty() || !framed.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) {
		return "", nil, ErrToken
	}
	m = mechanism(oid)
	if m != kerberos && m != kerberosWindows {
		return "", nil, ErrMechanism
	}
	request, ok := bytes.CutPrefix(framed, []byte(idRequest))
	if !ok {
		return "", nil, ErrToken
	}
	return m, request, nil
}

// frameToken puts a frame as that of an initial token around a reply.
func frameToken(m mechanism, reply []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(application(0), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(m)) })
		b.AddBytes([]byte(idReply))
		b.AddBytes(reply)
	})
	return b.Bytes()
}
