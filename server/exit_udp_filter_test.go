package server

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
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

func TestARuleSaysByWhichFilteringItsPeersAreHeard(t *testing.T) {
	for _, exit := range []*Exit{
		{Allow: toLoopback}, {Allow: toLoopback, Filtering: AddressAndPortDependent},
	} {
		h := newHouse(t, func(c *Config) {
			c.Relay = exit
			c.Policy = rules(t, `
[[rule]]
networks = ["127.0.0.1"]
then = "allow"
udp_filtering = "address-and-port-dependent"
[[rule]]
networks = ["127.0.0.2"]
then = "allow"
udp_filtering = "address-dependent"
[[rule]]
networks = ["127.0.0.3"]
then = "allow"
udp_filtering = "endpoint-independent"
[[rule]]
then = "allow"
`)
		})
		v, err := h.Visit(t.Context(), Visitor{User: "bob"})
		h.must(err)
		in := newMailbox()
		a, reply, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, in)
		h.must(err)
		send := func(conn *net.UDPConn, what string) {
			_, err := conn.WriteToUDPAddrPort([]byte(what), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), reply.Bound.Port()))
			h.must(err)
		}
		anybody, _ := listenPeer(t, "127.0.0.3:0")
		var got []string
		for _, network := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"} {
			peer, at := listenPeer(t, network+":0")
			other, _ := listenPeer(t, network+":0")
			for _, when := range []string{"before", "after"} {
				if when == "after" {
					a.Send(to(at, "hello"))
					heard(t, peer)
				}
				send(other, network+" other port "+when)
				send(peer, network+" peer "+when)
				send(anybody, "all")
				for d := in.next(t); string(d.Payload) != "all"; d = in.next(t) {
					got = append(got, string(d.Payload))
				}
			}
		}
		want := []string{
			"127.0.0.1 peer after",
			"127.0.0.2 other port after", "127.0.0.2 peer after",
			"127.0.0.3 other port before", "127.0.0.3 peer before", "127.0.0.3 other port after", "127.0.0.3 peer after",
		}
		if exit.Filtering == EndpointIndependent {
			want = append(want, "127.0.0.4 other port before", "127.0.0.4 peer before", "127.0.0.4 other port after")
		}
		if want = append(want, "127.0.0.4 peer after"); !slices.Equal(got, want) {
			t.Errorf("%s where a rule says nothing: came\n%q, want\n%q", exit.Filtering, got, want)
		}
		a.Close()
		v.Close()
	}
}

// What was said of a destination a moment ago counts no more.
func TestAssociationGoesByNewRulesAtOnce(t *testing.T) {
	h := newHouse(t, func(c *Config) {
		c.Relay = &Exit{Allow: toLoopback}
		c.Policy = rules(t, "[[rule]]\nthen = \"allow\"\n")
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	in := newMailbox()
	a, reply, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, in)
	h.must(err)
	defer a.Close()
	port := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), reply.Bound.Port())
	peer, at := listenPeer(t, "127.0.0.2:0")
	other, atOther := listenPeer(t, "127.0.0.3:0")
	talk := func(says string, allowed bool) {
		t.Helper()
		a.Send(to(at, says))
		a.Send(to(atOther, says))
		if got, _ := heard(t, other); got != says {
			t.Errorf("to another peer goes %q, want %q", got, says)
		}
		if allowed {
			if got, _ := heard(t, peer); got != says {
				t.Errorf("to the peer goes %q, want %q", got, says)
			}
		}
		for _, c := range []*net.UDPConn{peer, other} {
			_, err := c.WriteToUDPAddrPort([]byte(says), port)
			h.must(err)
			if c == peer && !allowed {
				continue
			}
			if d := in.next(t); string(d.Payload) != says || d.Addr.Port != c.LocalAddr().(*net.UDPAddr).AddrPort().Port() {
				t.Errorf("from %v comes %q, want %q of %v", d.Addr, d.Payload, says, c.LocalAddr())
			}
		}
	}
	talk("one", true)
	h.SetPolicy(rules(t, "[[rule]]\nnetworks = [\"127.0.0.2\"]\nthen = \"deny\"\n[[rule]]\nthen = \"allow\"\n"))
	talk("two", false)
	h.SetPolicy(nil)
	talk("three", true)
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

func TestDatagramsOfIPsecAreNotCarried(t *testing.T) {
	a := &association{
		exit:     &Exit{Allow: toLoopback},
		permit:   func(string, netip.AddrPort) error { return nil },
		verdicts: recent[destination, verdict]{limit: maxVerdicts},
	}
	for port, want := range map[uint16]bool{500: false, 4500: false, 501: true, 53: true} {
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		if got := a.allows(destination{at: at}, time.Now()); got != want {
			t.Errorf("to port %d: %v", port, got)
		}
		named := destination{name: "gateway.example.org", at: netip.AddrPortFrom(netip.Addr{}, port)}
		if got := a.allows(named, time.Now()); got != want {
			t.Errorf("to a name and port %d: %v", port, got)
		}
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
