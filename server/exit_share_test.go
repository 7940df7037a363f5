package server

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestUsersShareWhatThereIs(t *testing.T) {
	const limit = 16
	var s shares
	count := func(user string) (n int) {
		for s.take(user, limit) {
			n++
		}
		return n
	}
	for _, user := range []string{"anna", "bert", "carl"} {
		if n := count(user); n != limit/userShare {
			t.Errorf("%s gets %d", user, n)
		}
	}
	s.give("anna")
	if n := count("anna"); n != 1 {
		t.Errorf("anna gets %d for one that she has given back", n)
	}
	if n := count(""); n != limit/userShare {
		t.Errorf("nobody in particular gets the %d that are left", n)
	}
	if s.take("dora", limit) {
		t.Error("there are more than there may be")
	}
	for _, user := range []string{"anna", "bert", "carl", ""} {
		for range limit / userShare {
			s.give(user)
		}
	}
	if s.taken() != 0 || len(s.byUser) != 0 {
		t.Errorf("%d are left, of %v", s.taken(), s.byUser)
	}
}

// full gives a user all that he may have.
func full(s *shares, user string, limit int) {
	for s.take(user, limit) {
	}
}

func TestOneUserLeavesNamesAndEchoesToOthers(t *testing.T) {
	e := &Exit{Allow: toLoopback, Resolver: byName{"a.example": addrs("192.0.2.1")}}
	full(&e.exchanges.open, "anna", maxExchanges)
	full(&e.echoes, "anna", maxEchoes)
	query := dnsQueryFor(t, "a.example.", dnsmessage.TypeA)
	target := netip.MustParseAddr("127.0.0.1")
	if _, err := e.Exchange(t.Context(), socks.Request{User: "anna"}, query, false); !errors.Is(err, errExchanges) {
		t.Errorf("anna's exchange: %v", err)
	}
	if err := e.Echo(t.Context(), socks.Request{User: "anna"}, target, nil); !errors.Is(err, errEchoes) {
		t.Errorf("anna's echo: %v", err)
	}
	if _, err := e.Exchange(t.Context(), socks.Request{User: "bert"}, query, false); err != nil {
		t.Errorf("bert's exchange: %v", err)
	}
	if err := e.Echo(t.Context(), socks.Request{User: "bert"}, target, nil); err != nil {
		t.Errorf("bert's echo: %v", err)
	}
	// The name service of SOCKS is the same one.
	for user, want := range map[string]int{"anna": 0, "bert": 1} {
		r := connectTo(t, "0.0.0.0", 53)
		r.User, r.Initial = user, framed(string(query))
		c, _, err := e.Connect(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		if got := unframed(t, c); len(got) != want {
			t.Errorf("%s gets %d answers", user, len(got))
		}
		c.Close()
	}
}

func TestOneUserLeavesLookUpsToOthers(t *testing.T) {
	g := newGate()
	e := &Exit{Allow: toLoopback, Resolver: g}
	full(&e.shared().lookups, "anna", maxExitLookups)
	peer := to(socks.Addr{Name: "peer.example", Port: 9}, "x")
	for user, want := range map[string]uint64{"anna": 1, "bert": 0} {
		before := e.Drops().Full
		a, _ := associateAs(t, e, wants(user, 0, noParity))
		a.Send(peer)
		if got := e.Drops().Full - before; got != want {
			t.Errorf("%s loses %d datagrams, want %d", user, got, want)
		}
	}
	<-g.asked
}

// slowNames is a resolver that takes its time.
type slowNames struct{ asked chan<- struct{} }

func (s slowNames) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestExchangesUnderWayAreTheirUsers(t *testing.T) {
	asked := make(chan struct{})
	e := &Exit{Resolver: slowNames{asked}}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 3 {
		asking.Go(func() {
			_, _ = e.Exchange(ctx, socks.Request{User: "anna"}, dnsQueryFor(t, "a.example.", dnsmessage.TypeA), false)
		})
		<-asked
	}
	e.exchanges.open.mu.Lock()
	if n := e.exchanges.open.byUser["anna"]; n != 3 {
		t.Errorf("anna has %d", n)
	}
	e.exchanges.open.mu.Unlock()
	cancel()
	asking.Wait()
	if n := e.exchanges.open.taken(); n != 0 {
		t.Errorf("%d are under way", n)
	}
}
