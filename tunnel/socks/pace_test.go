package socks

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPaceAllowsABurstAndThenOneASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pace
		count := func(tries int) (n int) {
			for range tries {
				if p.Allows() {
					n++
				}
			}
			return n
		}
		if n := count(1000); n != paceBurst {
			t.Errorf("%d at once", n)
		}
		time.Sleep(10 * time.Second)
		if n := count(1000); n != 10 {
			t.Errorf("%d after ten seconds", n)
		}
		time.Sleep(time.Hour)
		if n := count(1000); n != paceBurst {
			t.Errorf("%d after an hour", n)
		}
	})
}
