// Package ipseclink carries sessions over plain TCP inside a path that IPsec protects. It
// encrypts nothing: whoever uses it sees to it that connections are made and accepted on
// such paths only, and that nothing leaves them, see package ipsec. What it adds is that
// both ends prove who they are, the server by its pinned key and the device by its
// opening, each over what both have drawn for this very connection. Datagrams go beside a
// connection where they get through, signed with keys that both have agreed on.
//
// For a connection that has been closed because its path was lost, the kernel may still send
// resets (RFC 9293 section 3.5.2) by any way: no socket is left that could be tied. They have no
// payload, and the other end, whose socket is tied, does not take them.
package ipseclink

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

// Sizes of the messages that open a carrier, in bytes. Package tunnel has the last two.
const (
	callSize = len(magic) + nonceSize
	proofAt  = nonceSize + pointSize
	showSize = proofAt + 1 + maxProof

	OpeningSize = 256
	AnswerSize  = 128

	nonceSize = 32
	pointSize = 65 // of a public key on P-256, not compressed (SEC 1 section 2.3.3)
	maxProof  = 72 // of a signature by such a key, in ASN.1
)

// magic is what a client says first.
const magic = "aditIP\x00\x01"

// Labels that no other use of a hash or key has.
const (
	serverLabel  = "adit ipsec server 1"
	carrierLabel = "adit ipsec carrier 1"
)

// timeout bounds opening a carrier.
const timeout = 10 * time.Second

var (
	errForeign = errors.New("the other end speaks something else")

	// ErrWrongPin says that the server has another key than the pinned one.
	ErrWrongPin = errors.New("the server's key is not the pinned one")
)

// nonces are what both ends have drawn.
type nonces struct{ client, server [nonceSize]byte }

// newNonce draws one: a public key for X25519 (RFC 7748), with the private one.
func newNonce() (*ecdh.PrivateKey, [nonceSize]byte, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, [nonceSize]byte{}, fmt.Errorf("draw a nonce: %w", err)
	}
	return private, [nonceSize]byte(private.PublicKey().Bytes()), nil
}

// message is what belongs to a label and this connection, and under is its hash.
func (n nonces) message(label string) []byte {
	return slices.Concat([]byte(label), n.client[:], n.server[:])
}

func (n nonces) under(label string) [sha256.Size]byte { return sha256.Sum256(n.message(label)) }

// show is what a server answers to a call: its nonce, its public key, and a signature by that
// over both nonces, with its length before it.
func show(n nonces, key *keys.Server) ([]byte, error) {
	point, err := key.Public()
	if err != nil {
		return nil, err
	}
	proof, err := key.Sign(n.message(serverLabel))
	if err != nil {
		return nil, err
	}
	b := make([]byte, showSize)
	copy(b, n.server[:])
	copy(b[nonceSize:], point)
	b[proofAt] = byte(len(proof))
	copy(b[proofAt+1:], proof)
	return b, nil
}

// check reads a server's answer, and tells whether it is that of the key with a pin.
func check(b []byte, client [nonceSize]byte, pin keys.Pin) (n nonces, err error) {
	n = nonces{client: client, server: [nonceSize]byte(b)}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), b[nonceSize:proofAt])
	if err != nil || int(b[proofAt]) > maxProof {
		return n, errForeign
	}
	info, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return n, err
	}
	digest := n.under(serverLabel)
	if !ecdsa.VerifyASN1(key, digest[:], b[proofAt+1:][:b[proofAt]]) {
		return n, errors.New("the server does not prove that its key is its own")
	}
	if keys.Pin(sha256.Sum256(info)) != pin {
		return n, ErrWrongPin
	}
	return n, nil
}
