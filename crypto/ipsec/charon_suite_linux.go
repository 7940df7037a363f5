package ipsec

import (
	"fmt"
	"strconv"
	"strings"
)

// charonCipher finds one by strongSwan's name, and gives the size of the check
// value in bits if the cipher makes it.
func charonCipher(name string) (c cipher, checkBits int, ok bool) {
	for prefix, c := range map[string]cipher{"AES_GCM_": aesGCM, "AES_CCM_": aesCCM} {
		if size, ok := strings.CutPrefix(name, prefix); ok {
			n, err := strconv.Atoi(size)
			return c, 8 * n, err == nil
		}
	}
	switch name {
	case "CHACHA20_POLY1305":
		return chacha20, 128, true
	case "AES_CTR":
		return aesCTR, 0, true
	case "AES_CBC":
		return aesCBC, 0, true
	case "CAMELLIA_CBC":
		return camellia, 0, true
	case "3DES_CBC":
		return des3, 0, true
	}
	return cipher{}, 0, false
}

// charonTransform is what charon tells of an association.
func charonTransform(encryption, keyBits, integrity string) transform {
	known, checkBits, ok := charonCipher(encryption)
	if !ok {
		return transform{Suite: Suite{Cipher: encryption}, weakness: "it encrypts with " + orNothing(encryption)}
	}
	t := transform{Suite: Suite{Cipher: known.name}, iv: known.iv, block: known.block, check: checkBits / 8}
	if keyBits != "" {
		n, err := strconv.Atoi(keyBits)
		if err != nil {
			t.weakness = fmt.Sprintf("its key has %q bits", keyBits)
		}
		t.KeyBits = n
	} else if known == chacha20 {
		t.KeyBits = 256
	}
	if known.sealed {
		return t
	}
	// "HMAC_SHA2_256_128" is hmac-sha256-128, "AES_XCBC_96" is xcbc-aes-96.
	name := strings.ToLower(integrity)
	name = strings.Replace(strings.TrimPrefix(name, "aes_"), "sha2_", "sha", 1)
	at := strings.LastIndexByte(name, '_')
	if at < 0 {
		return t.authenticated(name, false, 0)
	}
	bits, err := strconv.Atoi(name[at+1:])
	name = strings.ReplaceAll(name[:at], "_", "-")
	if strings.HasPrefix(integrity, "AES_") {
		name += "-aes"
	}
	return t.authenticated(name, err == nil, bits)
}
