package ipseclink

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/replay"
)

// A message beside a connection is its kind and number, what is in it, and a tag.
const (
	headSize  = 8
	tagSize   = 16
	frameSize = headSize + tagSize // around what is in it

	// margin is what a buffer has before a message, always zero. With the message's
	// head it is what AES-GCM calls a nonce.
	margin = 4

	numberBits = 56 // of the head; the kind is above them
)

// Kinds of messages.
const (
	kindDatagram = 1
	kindProbe    = 2 // is as long as packets would like to be
	kindAnswer   = 3 // says how long a probe was, in two bytes
)

const datagramLabel = "adit ipsec datagrams 1"

// authenticators are those of both directions.
type authenticators struct{ toServer, toClient cipher.AEAD }

// agree makes keys that both ends of a connection have, and nobody else. Their nonces are
// public keys, which both of them have signed.
func agree(n nonces, private *ecdh.PrivateKey, theirs [nonceSize]byte) (a authenticators, err error) {
	public, err := ecdh.X25519().NewPublicKey(theirs[:])
	if err != nil {
		return a, fmt.Errorf("agree on keys for datagrams: %w", err)
	}
	secret, err := private.ECDH(public)
	if err != nil {
		return a, fmt.Errorf("agree on keys for datagrams: %w", err)
	}
	const size = 16
	both, err := hkdf.Key(sha256.New, secret, slices.Concat(n.client[:], n.server[:]), datagramLabel, 2*size)
	if err != nil {
		return a, fmt.Errorf("agree on keys for datagrams: %w", err)
	}
	if a.toServer, err = authenticator(both[:size]); err != nil {
		return a, err
	}
	a.toClient, err = authenticator(both[size:])
	return a, err
}

func authenticator(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// sealer numbers and signs the messages of one direction. Safe for concurrent use.
type sealer struct {
	key  cipher.AEAD
	last atomic.Uint64 // number
}

// seal makes a message in b, behind its margin. It encrypts nothing, as the path does that.
func (s *sealer) seal(b []byte, kind byte, content []byte) []byte {
	b = binary.BigEndian.AppendUint64(b[:margin], uint64(kind)<<numberBits|s.last.Add(1))
	b = append(b, content...)
	return s.key.Seal(b, b[:margin+headSize], nil, b[margin:])
}

// opener takes the messages of one direction, each once.
type opener struct {
	key  cipher.AEAD
	seen replay.Filter
}

// open gives what is in a message behind its margin, if it is genuine and new. One that is
// 8,000 messages late counts as old.
func (o *opener) open(b []byte) (kind byte, content []byte, ok bool) {
	if len(b) < margin+frameSize {
		return 0, nil, false
	}
	end := len(b) - tagSize
	if _, err := o.key.Open(nil, b[:margin+headSize], b[end:], b[margin:end]); err != nil {
		return 0, nil, false
	}
	head := binary.BigEndian.Uint64(b[margin:])
	if !o.seen.ValidateCounter(head&(1<<numberBits-1), 1<<numberBits) {
		return 0, nil, false
	}
	return byte(head >> numberBits), b[margin+headSize : end], true
}
