package wglink

import (
	"crypto/sha256"
	"net/netip"
)

// Sizes of what opens a carrier, in bytes.
const (
	OpeningSize = 256
	AnswerSize  = 128

	nonceSize = 32
)

// carrierPort is where the server takes carriers, at its inner address. It has
// nothing to do with ports outside.
const carrierPort = 443

// Labels that keep hashes of one kind apart from those of another.
const (
	prefixLabel  = "adit wireguard prefix 1"
	addressLabel = "adit wireguard address 1"
	channelLabel = "adit wireguard channel 1"
)

// subjectInfo is what stands before an X25519 key in its SubjectPublicKeyInfo
// (RFC 8410 section 4).
const subjectInfo = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00"

// serverID names the server that has a public key.
func serverID(server [32]byte) [32]byte {
	return hash(subjectInfo, server[:])
}

// channelID names a carrier. The nonce is the server's, and no other carrier
// has it: neither all of it nor, among those that are there, its tag.
func channelID(server, device [32]byte, nonce []byte) [32]byte {
	return hash(channelLabel, server[:], device[:], nonce)
}

// serverAddress is the server's inner address: ::1 in a /64 of its own, which
// is a unique local one (RFC 4193).
func serverAddress(server [32]byte) netip.Addr {
	prefix := hash(prefixLabel, server[:])
	a := [16]byte{0: 0xfd, 15: 1}
	copy(a[1:8], prefix[:])
	return netip.AddrFrom16(a)
}

// carrierNet is the net of the server's inner address and its devices'.
func carrierNet(server [32]byte) netip.Prefix {
	return netip.PrefixFrom(serverAddress(server), 64).Masked()
}

// deviceAddress is the inner address of a server's peer. Both ends derive it,
// so nobody has to be told.
func deviceAddress(server, device [32]byte) netip.Addr {
	a := serverAddress(server).As16()
	own := hash(addressLabel, server[:], device[:])
	copy(a[8:], own[:])
	return netip.AddrFrom16(a)
}

func hash(label string, parts ...[]byte) (sum [32]byte) {
	h := sha256.New()
	h.Write([]byte(label))
	for _, p := range parts {
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// Protection says what keeps a carrier's bytes secret. It is the same for all.
type Protection struct {
	Version     string // "WireGuard"
	Cipher      string // "ChaCha20-Poly1305"
	KeyExchange string // "X25519"
}

func protection() Protection {
	return Protection{Version: "WireGuard", Cipher: "ChaCha20-Poly1305", KeyExchange: "X25519"}
}
