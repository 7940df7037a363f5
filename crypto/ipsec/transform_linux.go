package ipsec

import (
	"fmt"
	"strings"
)

// transform is a suite and what its bytes cost in a packet.
type transform struct {
	Suite
	iv, block, check int    // bytes; the block is what ESP pads to
	weakness         string // why it does not protect; empty if it does
}

// cipher is what is known of one.
type cipher struct {
	name      string
	iv, block int
	salt      int  // bits of the kernel's key that are no key
	sealed    bool // it authenticates as well
}

var (
	aesGCM   = cipher{name: "aes-gcm", iv: 8, block: 4, salt: 32, sealed: true}
	aesCCM   = cipher{name: "aes-ccm", iv: 8, block: 4, salt: 24, sealed: true}
	chacha20 = cipher{name: "chacha20-poly1305", iv: 8, block: 4, salt: 32, sealed: true}
	aesCTR   = cipher{name: "aes-ctr", iv: 8, block: 4, salt: 32}
	aesCBC   = cipher{name: "aes-cbc", iv: 16, block: 16}
	camellia = cipher{name: "camellia-cbc", iv: 16, block: 16}
	des3     = cipher{name: "3des-cbc", iv: 8, block: 8}
)

// kernelCipher finds one by the name that the kernel's crypto gives it. The null
// cipher is none, and neither are RFC 4543, which hides nothing, and DES.
func kernelCipher(name string) (cipher, bool) {
	switch name {
	case "rfc4106(gcm(aes))":
		return aesGCM, true
	case "rfc4309(ccm(aes))":
		return aesCCM, true
	case "rfc7539esp(chacha20,poly1305)":
		return chacha20, true
	case "rfc3686(ctr(aes))":
		return aesCTR, true
	case "cbc(aes)":
		return aesCBC, true
	case "cbc(camellia)":
		return camellia, true
	case "cbc(des3_ede)":
		return des3, true
	}
	return cipher{}, false
}

// algorithm is one as the kernel tells of it.
type algorithm struct {
	name               string
	keyBits, checkBits int
}

// kernelTransform puts together what an association has.
func kernelTransform(c, integrity algorithm, aead bool) transform {
	known, ok := kernelCipher(c.name)
	if !ok || known.sealed != aead {
		return transform{Suite: Suite{Cipher: c.name}, weakness: "it encrypts with " + orNothing(c.name)}
	}
	t := transform{Suite: Suite{Cipher: known.name, KeyBits: c.keyBits - known.salt}, iv: known.iv, block: known.block}
	if aead {
		t.check = c.checkBits / 8
		return t
	}
	// "hmac(sha256)" with 128 bits is hmac-sha256-128.
	name, checked := strings.CutSuffix(integrity.name, ")")
	return t.authenticated(strings.Replace(name, "(", "-", 1), checked, integrity.checkBits)
}

// authenticated adds what authenticates beside the cipher.
func (t transform) authenticated(name string, known bool, bits int) transform {
	hash := strings.HasPrefix(name, "hmac-") || name == "xcbc-aes" || name == "cmac-aes"
	if !known || !hash || bits <= 0 {
		t.weakness = "it authenticates with " + orNothing(name)
		return t
	}
	t.Integrity, t.check = fmt.Sprintf("%s-%d", name, bits), bits/8
	return t
}

func orNothing(name string) string {
	if name == "" {
		return "nothing"
	}
	return name
}

// wrapping is how a packet is put into ESP.
type wrapping struct {
	transform
	mode  mode
	outer int // bytes of the IP header that ESP is behind
	natt  bool
	other bool // in something else, such as TCP
}

const (
	sizeofIPv4 = 20
	sizeofIPv6 = 40
	sizeofUDP  = 8
	sizeofESP  = 8 // before the initialisation vector
	sizeofTail = 2 // of ESP: pad length and next header

	mostBEET  = sizeofIPv4 + 8  // a header of the other family and its options
	mostOther = 20 + 40 + 2 + 8 // TCP with all options, the length, and a keep-alive
)

// fits gives the size of the largest packet that fits into mtu bytes when it is
// wrapped, as the kernel reckons it; 0 if none does or the mode is not known.
func (w wrapping) fits(mtu int) int {
	header, inner := sizeofESP+w.iv, w.outer
	if w.natt {
		header += sizeofUDP
	}
	if w.other {
		header += mostOther
	}
	switch w.mode {
	case modeTransport:
	case modeTunnel:
		header, inner = header+w.outer, 0
	case modeBEET:
		header += mostBEET
	default:
		return 0
	}
	block := max(w.block, 4)
	return max((mtu-header-w.check-inner)&^(block-1)+inner-sizeofTail, 0)
}

// outerHeader is the size of an IP header.
func outerHeader(v4 bool) int {
	if v4 {
		return sizeofIPv4
	}
	return sizeofIPv6
}
