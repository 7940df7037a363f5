package main

import (
	"testing"

	"github.com/adit-net/adit/crypto/ipsec"
)

func TestProtectionByIPsecHasOneWord(t *testing.T) {
	gcm, longer := ipsec.Suite{Cipher: "aes-gcm", KeyBits: 128}, ipsec.Suite{Cipher: "aes-gcm", KeyBits: 256}
	cbc := ipsec.Suite{Cipher: "aes-cbc", KeyBits: 128, Integrity: "hmac-sha256-128"}
	signed := ipsec.Suite{Cipher: "aes-cbc", KeyBits: 128, Integrity: "hmac-sha384-192"}
	for want, p := range map[string]ipsec.Protection{
		"":                                  {Reason: "nobody"},
		"ipsec":                             {Mechanism: ipsec.Kernel, Out: gcm, In: ipsec.Suite{Cipher: "rot13"}},
		"ipsec:stated":                      {Mechanism: ipsec.Stated},
		"ipsec:aes-gcm-128":                 {Mechanism: ipsec.Userspace, Out: gcm, In: gcm},
		"ipsec:aes-gcm":                     {Mechanism: ipsec.Kernel, Out: gcm, In: longer},
		"ipsec:aes":                         {Mechanism: ipsec.Kernel, Out: gcm, In: cbc},
		"ipsec:aes-cbc-128+hmac":            {Mechanism: ipsec.Interface, Out: cbc, In: signed},
		"ipsec:aes-cbc-128+hmac-sha256-128": {Mechanism: ipsec.Interface, Out: cbc, In: cbc},
	} {
		if got := ipsecWord(p); got != want {
			t.Errorf("%+v: %q, not %q", p, got, want)
		}
		if got := ipsecOf([]string{"tls", want}); (got != "") != (want != "") {
			t.Errorf("%q is reported as %q", want, got)
		}
	}
}
