package cfx

import (
	"crypto/aes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
)

// What a derived key is for, the last octet of the constant that it is derived
// with (RFC 3961 section 5.3).
const (
	forChecksum   = 0x99
	forEncryption = 0xaa
	forIntegrity  = 0x55
)

// derive gives the key of a usage for a purpose.
func (k Key) derive(usage uint32, purpose byte) []byte {
	constant := append(binary.BigEndian.AppendUint32(nil, usage), purpose)
	switch k.kind {
	case AES128SHA2:
		return deriveSHA2(sha256.New, k.Reveal(), constant, 16)
	case AES256SHA2:
		size := 24
		if purpose == forEncryption {
			size = 32
		}
		return deriveSHA2(sha512.New384, k.Reveal(), constant, size)
	}
	return deriveAES(k.Reveal(), constant)
}

// deriveAES is DK of RFC 3961 section 5.1 for AES, whose random-to-key is the
// identity.
func deriveAES(key, constant []byte) []byte {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // NewKey has seen to the length
	}
	var out []byte
	in := fold(constant, blockSize)
	for len(out) < len(key) {
		block.Encrypt(in, in)
		out = append(out, in...)
	}
	return out[:len(key)]
}

// deriveSHA2 is KDF-HMAC-SHA2 of RFC 8009 section 3, which needs one round for
// all keys here.
func deriveSHA2(h func() hash.Hash, key, label []byte, size int) []byte {
	mac := hmac.New(h, key)
	mac.Write([]byte{0, 0, 0, 1})
	mac.Write(label)
	mac.Write([]byte{0})
	mac.Write(binary.BigEndian.AppendUint32(nil, uint32(8*size)))
	return mac.Sum(nil)[:size]
}

// fold is the n-fold of RFC 3961 section 5.1, with n in bytes: copies of in, each
// rotated 13 bits further, are added up in ones' complement.
func fold(in []byte, n int) []byte {
	sum := make([]int, n)
	for i := range lcm(len(in), n) {
		turn := 13 * (i / len(in))
		sum[i%n] += int(rotated(in, i%len(in), turn))
	}
	// Carry until nothing is left over: out of the top, back in at the bottom.
	for carry, again := 0, true; again; {
		again = false
		for i := n - 1; i >= 0; i-- {
			sum[i] += carry
			carry, sum[i] = sum[i]>>8, sum[i]&0xff
		}
		again = carry != 0
	}
	out := make([]byte, n)
	for i, v := range sum {
		out[i] = byte(v)
	}
	return out
}

// rotated gives byte i of in rotated right by a number of bits.
func rotated(in []byte, i, bits int) byte {
	size := 8 * len(in)
	first := ((8*i-bits)%size + size) % size
	high, low := in[first/8], in[(first/8+1)%len(in)]
	shift := first % 8
	return byte((uint16(high)<<8 | uint16(low)) << shift >> 8)
}

func lcm(a, b int) int {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}
