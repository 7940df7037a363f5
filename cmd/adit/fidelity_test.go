package main

import (
	"flag"
	"strconv"
	"sync"
	"testing"
)

var plays = flag.Uint64("plays", 1000, "how many random orders of events to compare with plain TCP")

// stages is how many plays run at once, all in one session.
const stages = 8

// TestTunnelBehavesAsTCP compares what app and target see through adit with
// what they see on a plain TCP connection. A play that differs can be performed
// by itself: -run TestTunnelBehavesAsTCP/^SEED$.
func TestTunnelBehavesAsTCP(t *testing.T) {
	c := startChain(t)
	seeds := make(chan uint64)
	var running sync.WaitGroup
	for range stages {
		running.Go(func() {
			for seed := range seeds {
				t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { c.compare(t, newPlay(seed)) })
			}
		})
	}
	for seed := range *plays {
		seeds <- seed
	}
	close(seeds)
	running.Wait()
}

func (c *chain) compare(t *testing.T, p play) {
	want, err := p.perform(t.Context(), dialDirect)
	if err != nil {
		t.Fatalf("%s\ndirect: %v", p, err)
	}
	got, err := p.perform(t.Context(), c.dial)
	if err != nil {
		t.Fatalf("%s\nthrough adit: %v", p, err)
	}
	if got != want {
		t.Errorf("%s\nthrough adit:\n%s\ndirect:\n%s", p, got, want)
	}
}
