package netwatch

import (
	"net/netip"
	"testing"
)

func TestSourceOfLoopbackIsLoopback(t *testing.T) {
	for _, remote := range []string{"127.0.0.1:80", "127.0.0.1:0", "[::ffff:127.0.0.1]:80"} {
		got, err := Source(netip.MustParseAddrPort(remote))
		if err != nil || got != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%s: %v, %v", remote, got, err)
		}
	}
}

func TestSourceOfNothingIsAnError(t *testing.T) {
	if got, err := Source(netip.AddrPort{}); err == nil {
		t.Errorf("got %v", got)
	}
}

func TestLoopbackIsOfThisMachine(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"} {
		if has, err := Has(netip.MustParseAddr(addr)); !has || err != nil {
			t.Errorf("%s: %v, %v", addr, has, err)
		}
	}
}

func TestOtherAddressesAreNotOfThisMachine(t *testing.T) {
	for _, addr := range []netip.Addr{
		{},
		netip.IPv4Unspecified(),
		netip.IPv6Unspecified(),
		netip.MustParseAddr("192.0.2.77"),
		netip.MustParseAddr("::ffff:192.0.2.77"),
		netip.MustParseAddr("2001:db8::77"),
		netip.MustParseAddr("224.0.0.1"),
		netip.MustParseAddr("ff02::1"),
		netip.MustParseAddr("fe80::77%nolink"),
	} {
		if has, err := Has(addr); has || err != nil {
			t.Errorf("%v: %v, %v", addr, has, err)
		}
	}
}
