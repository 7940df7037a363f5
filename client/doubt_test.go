package client

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// twoWays are a good way and a better one.
func twoWays() *ways { return newWays(Config{Better: make([]Dialer, 1)}) }

func TestWayThatKeepsFallingSilentIsDoubtedEverLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := twoWays()
		for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
			for range 4 { // lanes
				w.fail(0, time.Second)
			}
			time.Sleep(want - 1)
			if order, why := w.order(2); !slices.Equal(order, []int{1, 0}) || why[0] != errDoubtful || why[1] != nil {
				t.Errorf("before %v the order is %v, because of %v", want, order, why)
			}
			time.Sleep(1 * time.Nanosecond)
			if order, why := w.order(2); !slices.Equal(order, []int{0, 1}) || why[0] != nil {
				t.Errorf("after %v the order is %v, because of %v", want, order, why)
			}
		}
	})
}

func TestWayThatHasWorkedForLongIsNotDoubted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := twoWays()
		w.fail(0, time.Minute)
		if order, _ := w.order(2); order[0] != 0 {
			t.Error("one that has carried for a minute is doubted")
		}
		w.fail(0, time.Second)
		time.Sleep(time.Minute)
		w.fail(0, time.Second) // doubted for two
		w.fail(0, 2*time.Minute)
		if order, _ := w.order(2); order[0] != 0 {
			t.Error("one that has carried for longer than it was doubted still is")
		}
	})
}

func TestWayThatFellSilentLastIsTriedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := twoWays()
		for i := range 6 {
			w.fail(i%2, time.Second)
			if order, _ := w.order(2); order[1] != i%2 {
				t.Errorf("after way %d has fallen silent the order is %v", i%2, order)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestDoubtfulWayIsNotTriedBeforeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := twoWays()
		w.fail(0, time.Second)
		due := func() time.Duration {
			began := time.Now()
			var b better
			c, stop := b.due(w, 1)
			defer stop()
			<-c
			return time.Since(began)
		}
		if after := due(); after != time.Minute {
			t.Errorf("it is tried after %v", after)
		}
		w.fail(0, time.Second) // doubted for two
		w.forgive()
		if after := due(); after != betterPause {
			t.Errorf("in another network it is tried after %v", after)
		}
	})
}
