package main

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestProcessorsFollowTheLoad(t *testing.T) {
	g := governor{now: 1, most: 3}
	for i, step := range []struct {
		work
		times int
		want  int
	}{
		{work{load: 0}, 100, 1},
		{work{load: 0.9}, 100, 1},
		{work{load: 0.95}, 1, 2},
		{work{load: 1.8}, 100, 2}, // more would not be used
		{work{load: 2}, 1, 3},
		{work{load: 3}, 100, 3},
		{work{load: 1.3}, 100, 3}, // two would be full
		{work{load: 1.1}, enoughPeriods - 1, 3},
		{work{load: 1.3}, 1, 3}, // it begins anew
		{work{load: 1.1}, enoughPeriods, 2},
		{work{load: 0.7}, 100, 2},
		{work{load: 0.1}, enoughPeriods, 1},
		{work{load: 5}, 1, 2},
		{work{load: 0.5, begin: 10 * manyBegin}, 100, 1}, // they do not wait
		{work{load: 0.5, wait: 1}, 100, 1},               // it is always the same that wait
		{work{load: 0.5, begin: manyBegin, wait: manyWait}, 100, 2},
		{work{load: 0.5, begin: manyBegin}, enoughPeriods - 1, 2},
		{work{load: 0.5, begin: manyBegin, wait: manyWait}, 1, 2},
		{work{load: 0.5, begin: manyBegin}, enoughPeriods, 1},
	} {
		for range step.times {
			g.next(step.work)
		}
		if g.now != step.want {
			t.Fatalf("step %d: %d processors after %d periods of %+v, want %d", i, g.now, step.times, step.work, step.want)
		}
	}
}

func TestProcessorsOfALargeMachineComeByDoubling(t *testing.T) {
	g := governor{now: 1, most: 20}
	for _, want := range []int{2, 4, 8, 16, 20, 20} {
		if n := g.next(work{load: float64(g.now)}); n != want {
			t.Fatalf("%d processors are used, want %d", n, want)
		}
	}
}

func TestProcessorTimeIsThatOfWork(t *testing.T) {
	before := processorTime()
	for processorTime()-before < 20*time.Millisecond {
	}
}

func TestProcessorsAreGivenBackInTheEnd(t *testing.T) {
	most := runtime.GOMAXPROCS(0)
	if most == 1 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
		most = 2
	}
	t.Setenv("GOMAXPROCS", "") // it may be set for the test
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { useFewProcessors(ctx) })
	for runtime.GOMAXPROCS(0) != 1 {
		runtime.Gosched()
	}
	cancel()
	running.Wait()
	if n := runtime.GOMAXPROCS(0); n != most {
		t.Errorf("%d processors are left of %d", n, most)
	}
}

func TestMeterSeesGoroutinesThatBeginAndWait(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var m meter
	m.read()
	for try := 0; ; try++ { // which of them count is up to the scheduler
		var all sync.WaitGroup
		for range manyBegin {
			all.Go(func() {
				for began := time.Now(); time.Since(began) < 10*time.Microsecond; {
				}
			})
		}
		all.Wait()
		w := m.read()
		if w.begin >= manyBegin && w.wait > 0.5 && w.wait <= 1 && w.load > 0 {
			break
		}
		if try == 100 {
			t.Fatalf("the meter reads %+v, where many goroutines begin and most wait", w)
		}
	}
}
