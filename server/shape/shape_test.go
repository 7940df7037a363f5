package shape

import (
	"errors"
	"math"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestTenUsersOfOneExitGetTheirFairFigures(t *testing.T) {
	users := []Limits{
		{Guaranteed: 30 * Mbit},
		{Guaranteed: 10 * Mbit, Ceiling: 10 * Mbit},
		{Guaranteed: 5 * Mbit, Ceiling: 8 * Mbit},
		{Ceiling: 1 * Mbit},
		{Ceiling: 64 * Kbit},
		{Weight: 3},
		{Weight: 2, Ceiling: 12 * Mbit},
		{Guaranteed: 2 * Mbit},
		{},
		{},
	}
	within(t, func(w *world) {
		total := Limits{Ceiling: 100 * Mbit}
		all := New(both(total))
		reference := &fluid{limits: total}
		var loads []*load
		for i, limits := range users {
			user := all.User(both(limits))
			reference.below = append(reference.below, &fluid{limits: limits})
			for range 1 + i%3 {
				loads = append(loads, w.greedy(user.Flow(Allotment{})))
			}
		}
		reference.divide(float64(total.Ceiling))
		rates := w.rates(10*time.Second, loads)
		next := 0
		for i, user := range reference.below {
			var got float64
			for range 1 + i%3 {
				got += rates[next]
				next++
			}
			t.Logf("user %d %+v: %.3f Mbit/s, fair are %.3f", i, user.limits, got/1e6, user.got/1e6)
			if math.Abs(got-user.got) > 0.05*user.got {
				t.Errorf("user %d gets %.3f Mbit/s, fair are %.3f", i, got/1e6, user.got/1e6)
			}
		}
	})
}

func TestEqualUsersGetEqualParts(t *testing.T) {
	within(t, func(w *world) {
		all := New(both(Limits{Ceiling: 100 * Mbit}))
		var loads []*load
		for range 10 {
			loads = append(loads, w.greedy(all.User(Allotment{}).Flow(Allotment{})))
		}
		rates := w.rates(10*time.Second, loads)
		if j := jain(rates); j < 0.99 {
			t.Errorf("Jain's index is %.4f: %.0f", j, rates)
		}
	})
}

func TestManyFlowsOfOneUserDoNotStarveTheOneOfAnother(t *testing.T) {
	within(t, func(w *world) {
		all := New(both(Limits{Ceiling: 100 * Mbit}))
		many, one := all.User(Allotment{}), all.User(Allotment{})
		var loads []*load
		for range 1000 {
			loads = append(loads, w.greedy(many.Flow(Allotment{})))
		}
		alone := w.greedy(one.Flow(Allotment{}))
		time.Sleep(time.Second)
		rates := w.rates(10*time.Second, append(loads, alone))
		if got := rates[len(rates)-1]; math.Abs(got-50e6) > 0.05*50e6 {
			t.Errorf("the one flow gets %.3f Mbit/s of 50", got/1e6)
		}
		// Each of the many gets a piece every two seconds.
		if j := jain(w.rates(100*time.Second, loads)); j < 0.99 {
			t.Errorf("Jain's index of the many is %.4f", j)
		}
		if longest := time.Duration(alone.longest.Load()); longest > 20*time.Millisecond {
			t.Errorf("the one flow waited for %v", longest)
		}
	})
}

// echoes asks for little, time and again, and gives how long each took, sorted.
func (w *world) echoes(f *Flow, n int) (took []time.Duration) {
	for range n {
		time.Sleep(20 * time.Millisecond)
		asked := time.Now()
		if _, err := f.Take(Down, 100); err != nil {
			w.t.Error(err)
		}
		took = append(took, time.Since(asked))
	}
	slices.Sort(took)
	return took
}

func TestAnEchoBesideTheOwnDownloadsHardlyWaits(t *testing.T) {
	for _, others := range []int{0, 9} {
		within(t, func(w *world) {
			all := New(both(Limits{Ceiling: 100 * Mbit}))
			user := all.User(both(Limits{Ceiling: 10 * Mbit}))
			for range 50 {
				w.greedy(user.Flow(Allotment{}))
			}
			for range others {
				w.greedy(all.User(Allotment{}).Flow(Allotment{}))
			}
			time.Sleep(time.Second)
			took := w.echoes(user.Flow(Allotment{}), 1000)
			p99 := took[989]
			t.Logf("beside %d others: p50 %v, p99 %v, longest %v", others, took[500], p99, took[999])
			if p99 > 30*time.Millisecond {
				t.Errorf("p99 beside %d others is %v", others, p99)
			}
		})
	}
}

// Many flows that use little are much together.
func TestSparseFlowsLeaveSomethingForTheOthers(t *testing.T) {
	within(t, func(w *world) {
		user := New(both(Limits{Ceiling: 1 * Mbit})).User(Allotment{})
		bulk := w.greedy(user.Flow(Allotment{}))
		for range 500 { // 10 kbit/s each
			f := user.Flow(Allotment{})
			w.until(f)
			w.flows.Go(func() {
				for {
					time.Sleep(200 * time.Millisecond)
					if _, err := f.Take(Down, 250); err != nil {
						return
					}
				}
			})
		}
		time.Sleep(time.Second)
		if got := w.rates(10*time.Second, []*load{bulk})[0]; got < 1e6/20 {
			t.Errorf("the download gets %.0f bit/s", got)
		}
	})
}

func TestWhoIsGuaranteedNothingIsNotStarvedByThoseWhoAre(t *testing.T) {
	within(t, func(w *world) {
		all := New(both(Limits{Ceiling: 10 * Mbit}))
		for range 20 {
			w.greedy(all.User(both(Limits{Guaranteed: 5 * Mbit})).Flow(Allotment{}))
		}
		poor := w.greedy(all.User(Allotment{}).Flow(Allotment{}))
		time.Sleep(time.Second)
		if got := w.rates(10*time.Second, []*load{poor})[0]; got < 1000 {
			t.Errorf("%.0f bit/s", got)
		}
	})
}

func TestTooManyGuaranteesAreKeptInProportion(t *testing.T) {
	within(t, func(w *world) {
		all := New(both(Limits{Ceiling: 10 * Mbit}))
		little := w.greedy(all.User(both(Limits{Guaranteed: 10 * Mbit})).Flow(Allotment{}))
		much := w.greedy(all.User(both(Limits{Guaranteed: 40 * Mbit})).Flow(Allotment{}))
		time.Sleep(time.Second)
		rates := w.rates(10*time.Second, []*load{little, much})
		if r := rates[1] / rates[0]; math.Abs(r-4) > 0.4 {
			t.Errorf("they get %.0f bit/s, which is 1:%.2f", rates, r)
		}
	})
}

func TestIdleBandwidthIsLentAndComesBackAtOnce(t *testing.T) {
	within(t, func(w *world) {
		all := New(both(Limits{Ceiling: 100 * Mbit}))
		owner, other := all.User(both(Limits{Guaranteed: 80 * Mbit})), all.User(Allotment{})
		borrower := w.greedy(other.Flow(Allotment{}))
		time.Sleep(time.Second)
		if got := w.rates(time.Second, []*load{borrower})[0]; math.Abs(got-100e6) > 2e6 {
			t.Errorf("alone it gets %.3f Mbit/s", got/1e6)
		}
		back := w.greedy(owner.Flow(Allotment{}))
		rates := w.rates(100*time.Millisecond, []*load{borrower, back})
		if rates[1] < 85e6 {
			t.Errorf("within 100 ms the owner has %.3f Mbit/s of 90", rates[1]/1e6)
		}
		back.Close()
		time.Sleep(100 * time.Millisecond)
		if got := w.rates(time.Second, []*load{borrower})[0]; math.Abs(got-100e6) > 2e6 {
			t.Errorf("alone again it gets %.3f Mbit/s", got/1e6)
		}
	})
}

// Both directions, and rates from the slowest modem to the fastest line.
func TestAnyRateIsReached(t *testing.T) {
	for _, ceiling := range []Rate{Kbit, 64 * Kbit, Mbit, 100 * Mbit, 10 * Gbit} {
		within(t, func(w *world) {
			user := New(both(Limits{Ceiling: ceiling})).User(Allotment{})
			loads := []*load{w.greedy(user.Flow(Allotment{})), w.greedy(user.Flow(Allotment{}))}
			d := time.Duration(1e9 * 8 * 1e6 / float64(min(ceiling, 8*Mbit)))
			if ceiling == 10*Gbit {
				d = 100 * time.Millisecond
			}
			time.Sleep(time.Second)
			rates := w.rates(d, loads)
			if got := rates[0] + rates[1]; math.Abs(got-float64(ceiling)) > 0.01*float64(ceiling) {
				t.Errorf("%v: %.0f bit/s in %v", ceiling, got, d)
			}
		})
	}
}

func TestDirectionsAreApart(t *testing.T) {
	within(t, func(w *world) {
		f := New(Allotment{Up: {Ceiling: Kbit}}).User(Allotment{}).Flow(Allotment{})
		if !f.Try(Up, chunk) || f.Try(Up, 1) {
			t.Error("up is not limited to what may pass at once")
		}
		if n, err := f.Take(Down, chunk); n != chunk || err != nil {
			t.Errorf("down: %d bytes, %v", n, err)
		}
	})
}

func TestNewRatesHoldForThoseWhoWait(t *testing.T) {
	within(t, func(w *world) {
		all := New(both(Limits{Ceiling: Kbit}))
		user := all.User(Allotment{})
		f := w.greedy(user.Flow(Allotment{}))
		time.Sleep(10 * time.Second)
		all.Set(both(Limits{Ceiling: 10 * Mbit}))
		if got := w.rates(10*time.Second, []*load{f})[0]; math.Abs(got-10e6) > 1e5 {
			t.Errorf("more: %.0f bit/s", got)
		}
		user.Set(both(Limits{Ceiling: Mbit}))
		if got := w.rates(10*time.Second, []*load{f})[0]; math.Abs(got-1e6) > 1e5 {
			t.Errorf("less: %.0f bit/s", got)
		}
		f.Set(both(Limits{Ceiling: 100 * Kbit}))
		if got := w.rates(10*time.Second, []*load{f})[0]; math.Abs(got-1e5) > 1e4 {
			t.Errorf("less for the flow: %.0f bit/s", got)
		}
		other := all.Group(both(Limits{Ceiling: 5 * Mbit})).User(Allotment{})
		f.Move(other, Allotment{})
		if got := w.rates(10*time.Second, []*load{f})[0]; math.Abs(got-5e6) > 1e5 {
			t.Errorf("elsewhere: %.0f bit/s", got)
		}
	})
}

func TestWithoutCeilingNobodyWaitsAnyMore(t *testing.T) {
	within(t, func(w *world) {
		all := New(both(Limits{Ceiling: Kbit}))
		f := all.User(Allotment{}).Flow(Allotment{})
		done := make(chan error, 1)
		go func() {
			var err error
			for range 10 {
				err = errors.Join(err, f.TakeAll(Down, 1400))
			}
			done <- err
		}()
		synctest.Wait()
		began := time.Now()
		all.Set(Allotment{})
		if err := <-done; err != nil || time.Since(began) > 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestAWaitEndsWithItsFlow(t *testing.T) {
	within(t, func(w *world) {
		all := New(both(Limits{Ceiling: Kbit}))
		user := all.User(Allotment{})
		f, other := user.Flow(Allotment{}), user.Flow(Allotment{})
		if err := f.TakeAll(Down, 10_000); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, f.Close)
		began := time.Now()
		if _, err := f.Take(Down, 1); !errors.Is(err, net.ErrClosed) || time.Since(began) != time.Second {
			t.Errorf("close: %v after %v", err, time.Since(began))
		}
		if _, err := f.Take(Down, 1); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		// Nobody is left in the way of others: it is 10,000 bytes' time.
		if _, err := other.Take(Down, 1); err != nil {
			t.Error(err)
		}
		other.Close()
		user.Close()
		if tree := user.ways[Down].tree; tree.waiting != 0 || tree.alarm != 0 || len(tree.root.below) != 0 {
			t.Errorf("what is left: %d waiting, alarm %v, below %d", tree.waiting, tree.alarm, len(tree.root.below))
		}
	})
}

func TestTryTakesWhatThereIsAndWaitsForNothing(t *testing.T) {
	within(t, func(w *world) {
		user := New(both(Limits{Ceiling: Mbit})).User(Allotment{})
		f := user.Flow(Allotment{})
		passed := func(d time.Duration) (n int) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
				for f.Try(Down, 100) {
					n++
				}
			}
			return n * 800
		}
		if n := passed(10 * time.Second); math.Abs(float64(n)-10e6) > 1e5 {
			t.Errorf("alone: %d bits in 10 s", n)
		}
		bulk := w.greedy(user.Flow(Allotment{}))
		passed(time.Second)
		if n := passed(10 * time.Second); n > 5e6 {
			t.Errorf("beside another: %d bits in 10 s", n)
		}
		if got := w.rates(time.Second, []*load{bulk})[0]; math.Abs(got-1e6) > 5e4 {
			t.Errorf("the other gets %.0f bit/s then", got)
		}
		f.Close()
		if f.Try(Down, 1) || !f.Try(Down, 0) {
			t.Error("a closed flow gets nothing, and that is nothing")
		}
	})
}
