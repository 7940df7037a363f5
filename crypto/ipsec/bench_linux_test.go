package ipsec

import (
	"fmt"
	"net/netip"
	"testing"
)

func BenchmarkLook(b *testing.B) {
	path := Path{Remote: netip.MustParseAddrPort("10.2.0.7:80")}
	for _, policies := range []int{0, 1000} {
		for i := range policies {
			if err := ip(fmt.Sprintf("xfrm policy add src 10.1.0.0/24 dst 10.3.%d.%d dir out tmpl proto esp mode transport", i/256, i%256)); err != nil {
				b.Fatal(err)
			}
		}
		var d Detector
		shared := d.View()
		for name, view := range map[string]func() *View{"alone": d.View, "shared": func() *View { return shared }} {
			b.Run(fmt.Sprintf("policies=%d/view=%s", policies, name), func(b *testing.B) {
				for b.Loop() {
					if _, err := view().Look(b.Context(), path); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		if err := ip("xfrm policy flush"); err != nil {
			b.Fatal(err)
		}
	}
}
