package ipsec

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRouteIsTheOneThatTheKernelTakes(t *testing.T) {
	for _, c := range []string{
		"route add 10.2.9.0/24 via 10.1.0.2 mtu 1300",
		"rule add fwmark 7 lookup 77", "route add 10.2.0.0/16 dev lo table 77",
		"rule add ipproto udp dport 53 lookup 77",
	} {
		if err := ip(c); err != nil {
			t.Fatal(err)
		}
		defer ip(strings.Replace(c, " add ", " del ", 1))
	}
	remote := func(s string) Path { return Path{Remote: netip.MustParseAddrPort(s)} }
	for _, c := range []struct {
		path   Path
		source string
		dev    string
		mtu    int
	}{
		{remote("10.2.0.7:53"), "10.1.0.1", "v0", 1500},
		{remote("10.2.9.7:53"), "10.1.0.1", "v0", 1300},
		{remote("[2001:db8::2]:53"), "2001:db8::1", "v0", 1500},
		{remote("127.0.0.1:53"), "127.0.0.1", "lo", 65536},
		{Path{Remote: netip.MustParseAddrPort("10.2.0.7:53"), Mark: 7}, "10.1.0.1", "lo", 65536},
		{Path{Remote: netip.MustParseAddrPort("10.2.0.7:53"), UDP: true}, "10.1.0.1", "lo", 65536},
		{Path{Remote: netip.MustParseAddrPort("[fe80::9%v0]:53"), Local: netip.MustParseAddrPort("[2001:db8::1]:9")}, "2001:db8::1", "v0", 1500},
	} {
		got, err := findRoute(c.path)
		if err != nil {
			t.Errorf("%+v: %v", c.path, err)
			continue
		}
		if got.source != netip.MustParseAddr(c.source) || got.link.name != c.dev || got.mtu != c.mtu {
			t.Errorf("%+v goes %+v, not from %s over %s with %d bytes", c.path, got, c.source, c.dev, c.mtu)
		}
	}
}

func TestInterfaceKindIsRead(t *testing.T) {
	nest := func(kind uint16, parts ...[]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		return appendAttribute(nil, kind|unix.NLA_F_NESTED, all)
	}
	attr := func(kind uint16, value []byte) []byte { return appendAttribute(nil, kind, value) }
	native := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	big := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	message := func(kind string, data ...[]byte) []byte {
		b := make([]byte, unix.SizeofIfInfomsg)
		b = append(b, attr(unix.IFLA_IFNAME, []byte("x0\x00"))...)
		b = append(b, attr(unix.IFLA_MTU, native(1400))...)
		return append(b, nest(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, []byte(kind+"\x00")), nest(unix.IFLA_INFO_DATA, data...))...)
	}
	for _, c := range []struct {
		message []byte
		want    link
	}{
		{message("xfrm", attr(1, native(2)), attr(2, native(42))), link{name: "x0", kind: "xfrm", mtu: 1400, ifID: 42}},
		{message("xfrm", attr(3, nil)), link{name: "x0", kind: "xfrm", mtu: 1400}},
		{message("vti", attr(2, big(7)), attr(3, big(9))), link{name: "x0", kind: "vti", mtu: 1400, inKey: 7, outKey: 9}},
		{message("tun", attr(2, []byte{1})), link{name: "x0", kind: "tun", mtu: 1400}},
	} {
		if got, err := parseLink(c.message); err != nil || got != c.want {
			t.Errorf("%+v, %v; not %+v", got, err, c.want)
		}
	}
	if _, err := parseLink(message("xfrm", attr(2, []byte{1}))); err == nil {
		t.Error("a number of one byte is read")
	}
}

// Neither kind of interface exists on every kernel, but their policies do.
func TestInterfaceNeedsPoliciesAndAssociationsOfItsOwn(t *testing.T) {
	both := tunnelPolicies("", "")
	numbered := []string{strings.Replace(both[0], "tmpl", "if_id 3 tmpl", 1), strings.Replace(both[1], "tmpl", "if_id 3 tmpl", 1)}
	keyed := []string{strings.Replace(both[0], "dir", "mark 9 dir", 1), strings.Replace(both[1], "dir", "mark 7 dir", 1)}
	ifID := func(s *state) { s.ifID = 3 }
	key := func(s *state) { s.mark = mark{map[uint32]uint32{1: 9, 2: 7}[s.spi], 0xffffffff} }
	xfrm, vti := link{name: "x0", kind: "xfrm", ifID: 3}, link{name: "x0", kind: "vti", inKey: 7, outKey: 9}
	for _, c := range []struct {
		name     string
		policies []string
		states   []state
		link     link
		reason   string
	}{
		{"xfrm", numbered, tunnels(ifID), xfrm, ""},
		{"xfrm without associations", numbered, nil, xfrm, "there is no association for outgoing packets"},
		{"xfrm with associations of none", numbered, tunnels(), xfrm, "there is no association for outgoing packets"},
		{"xfrm with policies of none", both, tunnels(), xfrm, "no IPsec policy"},
		{"xfrm with another number", numbered, tunnels(ifID), link{name: "x0", kind: "xfrm", ifID: 4}, "no IPsec policy"},
		{"xfrm without a number", both, tunnels(), link{name: "x0", kind: "xfrm"}, "no number"},
		{"vti", keyed, tunnels(key), vti, ""},
		{"vti with the keys exchanged", keyed, tunnels(key), link{name: "x0", kind: "vti", inKey: 9, outKey: 7}, "no IPsec policy"},
		{"vti without associations", keyed, nil, vti, "there is no association for outgoing packets"},
	} {
		t.Run(c.name, func(t *testing.T) {
			load(t, c.policies...)
			db, err := readDatabase()
			if err != nil {
				t.Fatal(err)
			}
			db.states = c.states
			p := Path{Local: netip.MustParseAddrPort("10.1.0.1:5000"), Remote: netip.MustParseAddrPort("10.2.0.7:80")}
			got := lookAtInterface(p, route{source: p.Local.Addr(), link: c.link, mtu: 1500}, db)
			want := Interface
			if c.reason != "" {
				want = None
			}
			if got.Mechanism != want || !strings.Contains(got.Reason, c.reason) || !got.governed {
				t.Errorf("%+v, not because of %q", got, c.reason)
			}
		})
	}
}
