package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/crypto/ipsec"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
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

// Another process has passed them on, and does not tell when the device moves.
func TestNothingIsKnownOfThePathBelowACarrierByWireGuardThatIsPassedOn(t *testing.T) {
	store, err := users.Create(t.Context(), filepath.Join(t.TempDir(), storeFile))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	device, err := keys.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	token := keys.NewToken()
	if err := errors.Join(store.AddUser(t.Context(), "alice"), store.Invite(t.Context(), "alice", token, time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Join(t.Context(), token.Bytes(), users.Device{Key: device.Public(), WireGuard: device.WireGuardPublic(), Name: "laptop"}); err != nil {
		t.Fatal(err)
	}
	var below []string
	stated := &ipsec.Detector{Networks: []netip.Prefix{netip.MustParsePrefix("127.1.0.0/16")}}
	p := &serverProcess{paths: &ipsec.Paths{Detector: stated}, server: server.New(server.Config{
		Users: store,
		Relay: &server.Exit{},
		Elsewhere: func(_ context.Context, a tunnel.Arrival) ([]byte, func(context.Context, net.Conn)) {
			return make([]byte, tunnel.AnswerSize), func(context.Context, net.Conn) {
				if below = nil; a.Below != nil {
					below = a.Below()
				}
			}
		},
	})}
	for carrier, want := range map[string][]string{overTLS: {"ipsec:stated"}, overWireGuard: nil} {
		hello := tunnel.Hello{Session: [16]byte{1}, Epoch: 2}
		_, serve := p.judge(t.Context(), tunnel.Arrival{
			Opening:    hello.Sign(device, tunnel.Place{}),
			Remote:     netip.MustParseAddrPort("127.1.0.1:4711"),
			Protection: tunnel.Protection{Carrier: carrier},
		})
		if serve == nil {
			t.Fatal("nobody serves it")
		}
		serve(t.Context(), nil)
		if !slices.Equal(below, want) {
			t.Errorf("below %s are %q, not %q", carrier, below, want)
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
