package netwatch

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
)

func TestSourceFollowsTheRoutes(t *testing.T) {
	newLink(t)
	ip(t, "link set near up",
		"addr add 192.0.2.1/24 dev near", "addr add 198.51.100.1/24 dev near",
		"addr add 2001:db8::1/64 dev near nodad", "addr add fe80::1/64 dev near nodad")
	far := "203.0.113.7:443"
	zone := number(t, "near")
	for _, test := range []struct{ change, remote, want string }{
		{"", "192.0.2.9:443", "192.0.2.1"},
		{"", "198.51.100.9:443", "198.51.100.1"},
		{"", "[::ffff:198.51.100.9]:443", "198.51.100.1"},
		{"", "[2001:db8::9]:443", "2001:db8::1"},
		{"", "[fe80::9%" + zone + "]:443", "fe80::1%near"},
		{"", far, ""},
		{"route add default via 192.0.2.2", far, "192.0.2.1"},
		{"route replace default via 198.51.100.2", far, "198.51.100.1"},
		{"link set near down", far, ""},
	} {
		if test.change != "" {
			ip(t, test.change)
		}
		got, err := Source(netip.MustParseAddrPort(test.remote))
		if test.want == "" {
			if !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("%s: %v, %v; want no route", test.remote, got, err)
			}
			continue
		}
		if err != nil || got.String() != test.want {
			t.Errorf("%s: %v, %v; want %s", test.remote, got, err, test.want)
		}
	}
}

func TestAddressesComeAndGo(t *testing.T) {
	newLink(t)
	ip(t, "link set near up")
	number := "fe80::1%" + number(t, "near")
	check := func(want bool, has func(netip.Addr) (bool, error), addrs ...string) {
		t.Helper()
		for _, a := range addrs {
			if got, err := has(netip.MustParseAddr(a)); got != want || err != nil {
				t.Errorf("%s: %v, %v; want %v", a, got, err, want)
			}
		}
	}
	check(false, Has, "192.0.2.1", "2001:db8::1", "fe80::1", "fe80::1%near", number)
	check(false, canBind, "192.0.2.1", "2001:db8::1", number)
	ip(t, "addr add 192.0.2.1/24 dev near", "addr add 2001:db8::1/64 dev near nodad", "addr add fe80::1/64 dev near nodad")
	check(true, Has, "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "fe80::1", "fe80::1%near", number)
	check(true, canBind, "192.0.2.1", "2001:db8::1", number)
	check(false, Has, "fe80::1%far", "192.0.2.255", "192.0.2.2")
	check(false, canBind, "0.0.0.0", "::", "224.0.0.1", "192.0.2.2")
	ip(t, "addr del 192.0.2.1/24 dev near", "addr del 2001:db8::1/64 dev near", "addr del fe80::1/64 dev near")
	check(false, Has, "192.0.2.1", "2001:db8::1", "fe80::1", "fe80::1%near", number)
	check(false, canBind, "192.0.2.1", "2001:db8::1")
}

// number gives a link's number. Package net remembers for a minute which
// number a name stands for, but the links of all tests have the same name.
func number(t *testing.T, link string) string {
	l, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(l.Index)
}
