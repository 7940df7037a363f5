package server

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestFilteringDecidesWhoseDatagramsComeIn(t *testing.T) {
	for _, test := range []struct {
		filtering Filtering
		want      []string
	}{
		{EndpointIndependent, []string{"stranger", "other port", "peer"}},
		{AddressDependent, []string{"other port", "peer"}},
		{AddressAndPortDependent, []string{"peer"}},
	} {
		t.Run(test.filtering.String(), func(t *testing.T) {
			a, in, port := associate(t, &Exit{Allow: toLoopback, Filtering: test.filtering})
			peer, at := listenPeer(t, "127.0.0.1:0")
			otherPort, _ := listenPeer(t, "127.0.0.1:0")
			stranger, _ := listenPeer(t, "127.0.0.3:0")
			a.Send(to(at, "hello"))
			heard(t, peer)
			for _, sender := range []struct {
				conn *net.UDPConn
				name string
			}{{stranger, "stranger"}, {otherPort, "other port"}, {peer, "peer"}} {
				if _, err := sender.conn.WriteToUDPAddrPort([]byte(sender.name), netip.AddrPortFrom(at.IP, port)); err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range test.want {
				if d := in.next(t); string(d.Payload) != want {
					t.Errorf("%q came, want %q", d.Payload, want)
				}
			}
		})
	}
}

func TestFilteringHasWordsThatCanBeRead(t *testing.T) {
	for _, f := range []Filtering{EndpointIndependent, AddressDependent, AddressAndPortDependent} {
		if got, err := ParseFiltering(f.String()); err != nil || got != f {
			t.Errorf("%s is read as %s, %v", f, got, err)
		}
	}
	if _, err := ParseFiltering("filtering 7"); err == nil || Filtering(7).String() != "filtering 7" {
		t.Error("there is a seventh filtering")
	}
}

func TestRecentForgetsWhatWasUsedLongestAgo(t *testing.T) {
	r := recent[int, string]{limit: 100}
	for i := range 10_000 {
		r.put(i, fmt.Sprint(i))
		if got, ok := r.get(0); !ok || got != "0" {
			t.Fatalf("after %d others, 0 is %q", i, got)
		}
		if n := len(r.new) + len(r.old); n > 100 {
			t.Fatalf("%d entries", n)
		}
	}
	if _, ok := r.get(9960); !ok {
		t.Error("one of the last 50 is not there")
	}
	if _, ok := r.get(9800); ok {
		t.Error("one before the last 100 is there")
	}
}

func TestVerdictsAreForgottenWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Exit{Allow: toLoopback}
		a := &association{exit: e, permit: func(string, netip.AddrPort) error { return nil }, verdicts: recent[destination, verdict]{limit: maxVerdicts}}
		peer := netip.MustParseAddrPort("127.0.0.1:53")
		if !a.allows(destination{at: peer}, time.Now()) {
			t.Fatal("not allowed")
		}
		e.Own = []netip.AddrPort{peer} // as if this host had got the address
		if !a.allows(destination{at: peer}, time.Now()) {
			t.Error("the verdict was not kept")
		}
		time.Sleep(verdictLife + 1)
		if a.allows(destination{at: peer}, time.Now()) {
			t.Error("the verdict was kept for too long")
		}
	})
}
