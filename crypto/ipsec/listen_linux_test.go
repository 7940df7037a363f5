package ipsec

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// told is one call.
type told struct {
	Protection
	err error
}

// followed gives what is told of a path for as long as the test lasts. Nothing is
// looked at but when something has been heard.
func followed(t *testing.T, d *Detector, p Path) <-chan told {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan told, 100)
	var running sync.WaitGroup
	running.Go(func() {
		d.follow(ctx, time.Hour, p, func(p Protection, err error) { calls <- told{p, err} })
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return calls
}

// await waits until something is told that is as wanted.
func await(t *testing.T, calls <-chan told, within time.Duration, what string, wanted func(told) bool) {
	t.Helper()
	late := time.After(within)
	for {
		select {
		case c := <-calls:
			if wanted(c) {
				return
			}
			t.Logf("before %s: %+v", what, c)
		case <-late:
			t.Fatalf("%s was not told", what)
		}
	}
}

func TestPoliciesAndRoutesAreHeardOf(t *testing.T) {
	calls := followed(t, &Detector{}, Path{Remote: netip.MustParseAddrPort("10.2.0.7:80")})
	because := func(reason string) func(told) bool {
		return func(c told) bool { return c.err == nil && c.Reason == reason }
	}
	const within = 30 * time.Second
	await(t, calls, within, "that there is no policy", because("no IPsec policy is for what goes"))

	load(t, "src 10.1.0.0/24 dst 10.2.0.0/16 dir out action block")
	await(t, calls, within, "the policy", because("an IPsec policy blocks what goes"))
	if err := ip("xfrm policy flush"); err != nil {
		t.Fatal(err)
	}
	await(t, calls, within, "its end", because("no IPsec policy is for what goes"))

	if err := ip("route add blackhole 10.2.0.0/24"); err != nil {
		t.Fatal(err)
	}
	await(t, calls, within, "the route", func(c told) bool { return c.err != nil && !c.Protected() })
	if err := ip("route del blackhole 10.2.0.0/24"); err != nil {
		t.Fatal(err)
	}
	await(t, calls, within, "its end", because("no IPsec policy is for what goes"))
}
