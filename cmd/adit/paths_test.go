package main

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

func TestAppIsLostWithItsProtectionAndWithItsPeer(t *testing.T) {
	none := ipsec.Protection{}
	acme, nameless, other := ipsec.Protection{Mechanism: ipsec.Kernel, Peer: "acme"}, ipsec.Protection{Mechanism: ipsec.Kernel}, ipsec.Protection{Mechanism: ipsec.Kernel, Peer: "other"}
	for _, c := range []struct {
		what string
		peer string
		seen []ipsec.Protection // one a second
		lost bool
	}{
		{"a new association of the same peer's", "acme", []ipsec.Protection{acme, nameless, acme}, false},
		{"a short time without", "acme", []ipsec.Protection{none, none, acme}, false},
		{"a long time without", "acme", []ipsec.Protection{none}, true},
		{"another peer", "acme", []ipsec.Protection{other}, true},
		{"another peer after a short time without", "acme", []ipsec.Protection{none, other}, true},
		{"a peer of whom nothing was known", "", []ipsec.Protection{nameless, acme}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var lost atomic.Bool
			g := guardedPath{peer: c.peer, patience: 10 * time.Second, lost: func() { lost.Store(true) }}
			g.waiting = time.AfterFunc(time.Hour, g.lost)
			for _, p := range c.seen {
				g.see(p)
				time.Sleep(time.Second)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			g.waiting.Stop()
			if lost.Load() != c.lost {
				t.Errorf("after %s: lost is %v", c.what, lost.Load())
			}
		})
	}
}
