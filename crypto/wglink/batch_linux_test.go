package wglink

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestDatagramsLeaveByTheInterfaceThatTheyMust(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to string }{
		{"127.0.0.1:0", "127.0.0.1:0"}, {":0", "127.0.0.1:0"}, {":0", "[::1]:0"},
	} {
		address, err := net.ResolveUDPAddr("udp", c.to)
		if err != nil {
			t.Fatal(err)
		}
		to, err := net.ListenUDP("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		at, err := net.ResolveUDPAddr("udp", c.from)
		if err != nil {
			t.Fatal(err)
		}
		from, err := net.ListenUDP("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		b, place := newBatchIO(from), netip.MustParseAddrPort(to.LocalAddr().String())
		if err := b.write([][]byte{{1, 2}, {3, 4}, {5}}, place, uint32(lo.Index)); err != nil {
			t.Errorf("from %s to %s: %v", c.from, c.to, err)
		}
		_ = to.SetReadDeadline(time.Now().Add(patience))
		for range 3 {
			if _, err := to.Read(make([]byte, 10)); err != nil {
				t.Fatalf("from %s to %s: %v", c.from, c.to, err)
			}
		}
		if err := b.write([][]byte{{1}}, place, 1<<20); err == nil {
			t.Errorf("from %s to %s a datagram left by an interface that is not there", c.from, c.to)
		}
	}
}
