package wglink

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPassageHoldsWhileThereIsTooMuchInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 8
		p := passage{most: most, out: newCounter()}
		began := time.Now()
		p.hold(most - 1)
		if took := time.Since(began); took > 0 {
			t.Errorf("it held for %v with room for one more", took)
		}
		go func() {
			for range 3 { // slowly, but not too slowly to be believed in
				time.Sleep(insideFor - 1)
				p.out.add(1)
			}
		}()
		p.hold(most + 2)
		if took := time.Since(began); took != 3*(insideFor-1) {
			t.Errorf("it held for %v", took)
		}
		// What does not come out is given up, and may come after all.
		began = time.Now()
		p.hold(most + 3)
		if took := time.Since(began); took != insideFor {
			t.Errorf("it held for %v", took)
		}
		p.out.add(most)
		p.hold(most + 3)
		p.hold(2*most + 2)
		began = time.Now()
		p.hold(2*most + 3)
		if took := time.Since(began); took != insideFor {
			t.Errorf("it held for %v once everything had come out", took)
		}
	})
}
