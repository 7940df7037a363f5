package ipsec

import (
	"net/netip"
	"testing"
)

func TestPathIsRefusedThatIsNone(t *testing.T) {
	for _, p := range []Path{
		{},
		{Remote: netip.MustParseAddrPort("0.0.0.0:80")},
		{Remote: netip.MustParseAddrPort("224.0.0.1:80")},
		{Remote: netip.MustParseAddrPort("[ff02::1%lo]:80")},
		{Remote: netip.MustParseAddrPort("192.0.2.1:80"), Local: netip.MustParseAddrPort("[2001:db8::1]:1")},
	} {
		everywhere := Detector{Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
		if got, err := everywhere.Look(t.Context(), p); err == nil || got.Protected() {
			t.Errorf("%+v is protected by %+v, error %v", p, got, err)
		}
	}
}

func TestStatementIsAboutItsNetworksOnly(t *testing.T) {
	d := Detector{Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:1::/48")}}
	for remote, want := range map[string]Mechanism{
		"198.51.100.7:443":          Stated,
		"198.51.101.7:443":          None,
		"[::ffff:198.51.100.7]:443": Stated,
		"[2001:db8:1::7]:443":       Stated,
		"[2001:db8:2::7]:443":       None,
	} {
		got, err := d.Look(t.Context(), Path{Remote: netip.MustParseAddrPort(remote)})
		if err != nil {
			t.Errorf("%s: %v", remote, err)
		} else if got.Mechanism != want || !got.Protected() != (got.Reason != "") {
			t.Errorf("%s: %+v, not %q", remote, got, want)
		}
	}
}

func TestSuiteHasOneName(t *testing.T) {
	for want, s := range map[string]Suite{
		"aes-gcm-128":                 {Cipher: "aes-gcm", KeyBits: 128},
		"aes-cbc-256+hmac-sha256-128": {Cipher: "aes-cbc", KeyBits: 256, Integrity: "hmac-sha256-128"},
		"rot13":                       {Cipher: "rot13"},
	} {
		if got := s.String(); got != want {
			t.Errorf("%+v is called %s, not %s", s, got, want)
		}
	}
}
