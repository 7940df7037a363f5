package ipsec

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestLooksFollowHintsAndNeitherCrowdNorMissThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hints, looks := make(chan struct{}, 1), make(chan time.Time, 1000)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			keepLooking(ctx, hints, time.Hour, func() { looks <- time.Now() })
		}()
		defer func() { cancel(); <-ended }()
		lately := func() (times []time.Time) {
			synctest.Wait()
			for range len(looks) {
				times = append(times, <-looks)
			}
			return times
		}

		began := time.Now()
		time.Sleep(time.Minute)
		if got := lately(); len(got) != 2 || !got[0].Equal(began) || got[1].Sub(began) > time.Second {
			t.Errorf("without a hint it looked at %v after %v", got, began)
		}

		hinted := time.Now()
		for range 1000 { // for ten seconds
			select {
			case hints <- struct{}{}:
			default:
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := lately(); len(got) < 100 || len(got) > 250 || !got[0].Equal(hinted) {
			t.Errorf("during ten seconds of hints after %v it looked %d times, first at %v", hinted, len(got), got[0])
		}
		quiet := time.Now()
		time.Sleep(time.Minute)
		got := lately()
		if after := got[len(got)-1].Sub(quiet); after < 200*time.Millisecond || after > 500*time.Millisecond {
			t.Errorf("it looked last %v after the last hint", after)
		}
	})
}
