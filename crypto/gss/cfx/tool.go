package cfx

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"hash"
)

const (
	blockSize = aes.BlockSize
	maxMAC    = 24
)

// ErrToken says that a token is malformed or was not made by the peer.
var ErrToken = errors.New("token is not genuine")

// tool is a key made ready for one use, so that a message costs no allocation.
// It serves one goroutine at a time.
type tool struct {
	block            cipher.Block
	encrypt, decrypt chain
	integrity        hash.Hash // of what is encrypted
	checksum         hash.Hash // of what is not
	macSize          int
	macLast          bool // the checksum is that of the ciphertext: RFC 8009
	sum              [sha512.Size384]byte
	last             [blockSize]byte
}

// chain is CBC that can start anew. What crypto/cipher gives has this method;
// crypto/tls relies on it too.
type chain interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

// zero is where every chain starts.
var zero [blockSize]byte

func newTool(k Key, usage uint32) *tool {
	block, err := aes.NewCipher(k.derive(usage, forEncryption))
	if err != nil {
		panic(err) // the derived key is as long as the key, which NewKey has checked
	}
	t := &tool{
		block:   block,
		encrypt: cipher.NewCBCEncrypter(block, zero[:]).(chain),
		decrypt: cipher.NewCBCDecrypter(block, zero[:]).(chain),
	}
	h := sha1.New
	switch k.kind {
	case AES128SHA1, AES256SHA1:
		t.macSize = 12
	case AES128SHA2:
		h, t.macSize, t.macLast = sha256.New, 16, true
	case AES256SHA2:
		h, t.macSize, t.macLast = sha512.New384, 24, true
	}
	t.integrity = hmac.New(h, k.derive(usage, forIntegrity))
	t.checksum = hmac.New(h, k.derive(usage, forChecksum))
	return t
}

// seal encrypts what b has from start on, a random block first, and appends
// the checksum.
func (t *tool) seal(b []byte, start int) []byte {
	text := b[start:]
	if t.macLast {
		t.scramble(text)
		return append(b, t.mac(t.integrity, zero[:], text)...)
	}
	mac := t.mac(t.integrity, text, nil)
	t.scramble(text)
	return append(b, mac...)
}

// open undoes seal, in place.
func (t *tool) open(b []byte) ([]byte, error) {
	if len(b) < blockSize+t.macSize {
		return nil, ErrToken
	}
	text, mac := b[:len(b)-t.macSize], b[len(b)-t.macSize:]
	var want []byte
	if t.macLast {
		want = t.mac(t.integrity, zero[:], text)
	} else {
		t.unscramble(text)
		want = t.mac(t.integrity, text, nil)
	}
	if !equal(mac, want) {
		return nil, ErrToken
	}
	if t.macLast {
		t.unscramble(text)
	}
	return text, nil
}

// mac gives the checksum of a and b together. It is valid until the next call.
func (t *tool) mac(h hash.Hash, a, b []byte) []byte {
	h.Reset()
	h.Write(a)
	h.Write(b)
	return h.Sum(t.sum[:0])[:t.macSize]
}

// equal compares in constant time.
func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// scramble encrypts at least one block with AES in CBC mode with ciphertext
// stealing (RFC 3962 section 5): the last two blocks always change places.
func (t *tool) scramble(b []byte) {
	t.encrypt.SetIV(zero[:])
	if len(b) == blockSize {
		t.encrypt.CryptBlocks(b, b)
		return
	}
	m := (len(b) - 1) / blockSize * blockSize // where the last block starts
	stolen, tail := b[m-blockSize:m], b[m:]
	t.last = zero
	copy(t.last[:], tail)
	t.encrypt.CryptBlocks(b[:m], b[:m])
	t.encrypt.CryptBlocks(t.last[:], t.last[:])
	copy(tail, stolen)
	copy(stolen, t.last[:])
}

// unscramble undoes scramble.
func (t *tool) unscramble(b []byte) {
	t.decrypt.SetIV(zero[:])
	if len(b) == blockSize {
		t.decrypt.CryptBlocks(b, b)
		return
	}
	m := (len(b) - 1) / blockSize * blockSize
	stolen, tail := b[m-blockSize:m], b[m:]
	t.block.Decrypt(t.last[:], stolen)
	copy(stolen, tail)
	copy(stolen[len(tail):], t.last[len(tail):])
	subtle.XORBytes(tail, tail, t.last[:])
	t.decrypt.CryptBlocks(b[:m], b[:m])
}
