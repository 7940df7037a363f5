package udp_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// numberOf is the number in a datagram, or in an introduction.
func numberOf(t *testing.T, b []byte) int {
	t.Helper()
	flow, n := tunnel.TakeFlow(b)
	if flow != 0 {
		return int(flow)
	}
	if b[n] != 1 {
		t.Fatalf("% x is no introduction", b)
	}
	_, k := tunnel.TakeFlow(b[n+1:])
	label, _ := tunnel.TakeFlow(b[n+1+k:])
	return int(label & (1<<14 - 1))
}

func host(n int) string { return fmt.Sprintf("10.%d.%d.%d:7", n>>16, n>>8&255, n&255) }

func TestFreedNumbersRestAndThenTheLowestGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.associate(0)
		for n := range 10 {
			first.client.Deliver(to(host(n), "x"))
		}
		first.close()
		second := w.associate(1)
		next := func(n int) int {
			second.client.Deliver(to(host(n), "x"))
			return numberOf(t, w.client.last())
		}
		if n := next(100); n != 11 {
			t.Errorf("at once: %d", n)
		}
		time.Sleep(30*time.Second - 1)
		if n := next(101); n != 12 {
			t.Errorf("just before: %d", n)
		}
		time.Sleep(time.Nanosecond)
		if a, b := next(102), next(103); a != 1 || b != 2 {
			t.Errorf("then: %d, %d", a, b)
		}
		synctest.Wait()
		for n, d := range second.up.take() {
			if d.Addr != to(host(100+n), "")[0].Addr {
				t.Errorf("datagram %d is for %v", n, d.Addr)
			}
		}
		second.close()
	})
}

// TestLateDatagramReachesNobodyElse holds one datagram back while its number gets
// another meaning.
func TestLateDatagramReachesNobodyElse(t *testing.T) {
	for name, again := range map[string]func(w *world, old *ends) *ends{
		"another association":   func(w *world, old *ends) *ends { old.close(); return w.associate(1) },
		"the same stream again": func(w *world, old *ends) *ends { old.close(); return w.associate(0) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				old := w.associate(0)
				old.client.Deliver(to(host(1), "x"))
				synctest.Wait()
				var held [][]byte
				pass := w.client.pass
				w.client.pass = func(b []byte) { held = append(held, b) }
				old.client.Deliver(to(host(1), "late"))
				if len(held) != 1 || len(held[0]) != 5 {
					t.Fatalf("% x", held)
				}
				w.client.pass = pass
				now := again(w, old)
				began := time.Now()
				for n := 2; ; n++ {
					now.client.Deliver(to(host(n), "x"))
					synctest.Wait()
					if numberOf(t, w.client.last()) == numberOf(t, held[0]) {
						break // the number means something else
					}
					if time.Since(began) < 30*time.Second {
						pass(held[0]) // as late as can be
					}
					time.Sleep(100 * time.Millisecond)
				}
				for _, d := range now.up.take() {
					if string(d.Payload) != "x" {
						t.Errorf("%v has got %q", d.Addr, d.Payload)
					}
				}
				if time.Since(began) < 30*time.Second {
					t.Errorf("the number has rested for %v only", time.Since(began))
				}
				now.close()
			})
		})
	}
}

// TestLateAcknowledgementMeansNothing holds back the only acknowledgement of a number
// until it stands for another peer, of whom the other end has not heard.
func TestLateAcknowledgementMeansNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old := w.associate(0)
		var held []byte
		pass := w.server.pass
		w.server.pass = func(b []byte) { held = b }
		old.client.Deliver(to(host(1), "x"))
		synctest.Wait()
		w.server.pass = pass
		old.client.Close()
		time.Sleep(time.Minute)

		now := w.associate(1)
		lose := w.client.pass
		w.client.pass = func([]byte) {}
		now.client.Deliver(to(host(2), "lost"))
		w.client.pass = lose
		pass(held)
		synctest.Wait()
		now.client.Deliver(to(host(2), "x"))
		synctest.Wait()
		want(t, now.up, to(host(2), "x"))
		now.close()
		old.close()
	})
}

func TestPeersBeyondTheNumbersGoByTheirAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const numbers = 1<<14 - 1
		w := newWorld(t)
		a := w.associate(0)
		for n := range numbers + 100 {
			a.client.Deliver(to(host(n), "x"))
			if n%1000 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if got := a.up.take(); len(got) != numbers+100 || got[numbers+50].Addr != to(host(numbers+50), "")[0].Addr {
			t.Errorf("%d datagrams came", len(got))
		}
		if n := numberOf(t, w.client.last()); n != 0 {
			t.Errorf("the last number is %d", n)
		}
		// Those who are not spoken to any more make room.
		for range 10 {
			time.Sleep(30 * time.Second)
			a.client.Deliver(to(host(0), "x"))
			a.client.Deliver(to(host(numbers+50), "x"))
		}
		if n := numberOf(t, w.client.last()); n != 2 {
			t.Errorf("the number of who has waited is %d", n)
		}
		a.client.Deliver(to(host(0), "x"))
		if n := numberOf(t, w.client.last()); n != 1 {
			t.Errorf("the number of who was spoken to all the time is %d", n)
		}
		a.close()
	})
}

// TestPeersOfLongNamesBeyondTheBoundGoByThem is about what a receiver keeps.
func TestPeersOfLongNamesBeyondTheBoundGoByThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names = 4000 // of which 1 MiB holds about 2,800
		w := newWorld(t)
		name := func(n int) string { return fmt.Sprintf("n%0249d:53", n) }
		named := func() bool { flow, _ := tunnel.TakeFlow(w.client.last()); return flow == 0 }
		a, b := w.associate(0), w.associate(1)
		for n := range names {
			a.client.Deliver(to(name(n), "x"))
			if n%500 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if got := a.up.take(); len(got) != names || got[names-1].Addr != to(name(names-1), "")[0].Addr {
			t.Errorf("%d datagrams came", len(got))
		}
		if a.client.Deliver(to(name(0), "x")); named() {
			t.Error("the first peer goes by its name")
		}
		for range 3 {
			if a.client.Deliver(to(name(names-1), "x")); !named() {
				t.Error("the last peer goes by a number")
			}
			synctest.Wait()
		}
		if got := a.up.take(); len(got) != 4 || got[3].Addr != to(name(names-1), "")[0].Addr {
			t.Errorf("%d datagrams came", len(got))
		}
		// What an association held is there for others when it is over.
		a.close()
		for range 2 {
			b.client.Deliver(to(name(names), "x"))
			synctest.Wait()
		}
		if named() {
			t.Error("nothing was given back")
		}
		b.close()
	})
}

// TestDatagramsFindTheirWayWhateverHappens lets associations come and go on a way that
// loses datagrams, and keeps those that are known by a number for up to 29 s.
func TestDatagramsFindTheirWayWhateverHappens(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			w := newWorld(t)
			for _, s := range []*side{w.client, w.server} {
				pass, loss := s.pass, r.IntN(60)
				s.pass = func(b []byte) { // from several goroutines
					switch {
					case rand.IntN(100) < loss:
					case b[0] != 0 && rand.IntN(4) == 0:
						time.AfterFunc(rand.N(29*time.Second), func() { pass(b) })
					default:
						pass(b)
					}
				}
			}
			var open []*ends
			var opened, sent, came int
			check := func() {
				for _, e := range open {
					for _, in := range []*inbox{e.up, e.down} {
						for _, d := range in.take() {
							came++
							if string(d.Payload) != fmt.Sprintf("%p %v", e, d.Addr) {
								t.Fatalf("seed %d: %v of %p got %q", seed, d.Addr, e, d.Payload)
							}
						}
					}
				}
			}
			for range 5000 {
				switch n := r.IntN(100); {
				case len(open) == 0 || n < 2 && len(open) < 10:
					open = append(open, w.associate(opened))
					opened++
				case n < 4:
					synctest.Wait()
					check()
					i := r.IntN(len(open))
					open[i].close()
					open = slices.Delete(open, i, i+1)
				default:
					e := open[r.IntN(len(open))]
					near := e.client
					if r.IntN(2) == 0 {
						near = e.server
					}
					a := to(host(r.IntN(30)), "")[0].Addr
					near.Deliver([]socks.Datagram{{Addr: a, Payload: fmt.Appendf(nil, "%p %v", e, a)}})
					sent++
				}
				if r.IntN(5) == 0 {
					time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
				}
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			check()
			if came < sent/10 {
				t.Errorf("seed %d: %d of %d datagrams came", seed, came, sent)
			}
			for _, e := range open {
				e.close()
			}
		})
	}
}
