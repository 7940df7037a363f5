package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/adit-net/adit/crypto/ipsec"
)

func TestWhatProtectsAPeerIsThatOfThePlaceWhereItIs(t *testing.T) {
	changes := 0
	stated := &ipsec.Detector{Networks: []netip.Prefix{netip.MustParsePrefix("127.1.0.0/16")}}
	s := &trails{paths: &ipsec.Paths{Detector: stated}, port: 51820, changed: func() { changes++ }}
	inside, outside := netip.MustParseAddrPort("127.1.0.1:1000"), netip.MustParseAddrPort("127.2.0.1:1000")
	at := outside
	words, stop := s.follow(func() netip.AddrPort { return at })
	for _, to := range []struct {
		place   netip.AddrPort
		want    []string
		changes int
	}{
		{outside, nil, 0},
		{inside, []string{"ipsec:stated"}, 1},
		{netip.AddrPortFrom(inside.Addr(), 1001), []string{"ipsec:stated"}, 1},
		{outside, nil, 2},
	} {
		at = to.place
		s.look()
		if got := words(); !slices.Equal(got, to.want) || changes != to.changes {
			t.Errorf("at %v: %q after %d changes, not %q after %d", at, got, changes, to.want, to.changes)
		}
		way, end := s.guard(at)
		if device, open := way(); device != 0 || open != (to.want != nil) {
			t.Errorf("at %v the guard says %v, by interface %d", at, open, device)
		}
		end()
	}
	at = inside // and a flow asks before it is looked
	if got := words(); len(got) == 0 {
		t.Errorf("at %v: %q", at, got)
	}
	if s.look(); changes != 3 {
		t.Errorf("others are not told that a flow has seen the peer elsewhere: %d changes", changes)
	}
	stop()
	if len(s.all) > 0 {
		t.Errorf("%d peers are still followed", len(s.all))
	}
}
