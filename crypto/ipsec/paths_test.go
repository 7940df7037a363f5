package ipsec

import (
	"net/netip"
	"testing"
)

func TestWhatIsFollowedIsKnownAtOnceAndWithoutServe(t *testing.T) {
	paths := Paths{Detector: &Detector{Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}}
	for remote, want := range map[string]Mechanism{"198.51.100.7:443": Stated, "203.0.113.7:443": None} {
		f := paths.Follow(t.Context(), Path{Remote: netip.MustParseAddrPort(remote)}, nil)
		if got := f.Protection(); got.Mechanism != want || !got.Protected() && got.Reason == "" {
			t.Errorf("%s: %+v", remote, got)
		}
		f.Stop()
	}
	if len(paths.followed) != 0 {
		t.Errorf("%d are followed still", len(paths.followed))
	}
}

// Follow and Serve may see the same path at the same time; the later view counts.
func TestLaterViewCounts(t *testing.T) {
	everywhere := &Detector{Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}
	changes := 0
	paths := Paths{Detector: everywhere, Changed: func() { changes++ }}
	f := paths.Follow(t.Context(), Path{Remote: netip.MustParseAddrPort("198.51.100.7:443")}, func(Protection) { changes += 100 })
	defer f.Stop()
	nowhere := (&Detector{}).View()
	paths.renew(t.Context(), nowhere)
	if f.Protection().Protected() || changes != 101 {
		t.Errorf("after a change: %+v, %d", f.Protection(), changes)
	}
	if f.look(t.Context(), everywhere.View(), 0); f.Protection().Protected() {
		t.Error("an older view counts")
	}
}
