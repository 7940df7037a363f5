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
		load  float64
		times int
		want  int
	}{
		{0, 100, 1},
		{0.9, 100, 1},
		{0.95, 1, 2},
		{1.8, 100, 2}, // more would not be used
		{2, 1, 3},
		{3, 100, 3},
		{1.3, 100, 3}, // two would be full
		{1.1, enoughPeriods - 1, 3},
		{1.3, 1, 3}, // it begins anew
		{1.1, enoughPeriods, 2},
		{0.7, 100, 2},
		{0.1, enoughPeriods, 1},
		{5, 1, 2},
	} {
		for range step.times {
			g.next(step.load)
		}
		if g.now != step.want {
			t.Fatalf("step %d: %d processors after %d periods of load %v, want %d", i, g.now, step.times, step.load, step.want)
		}
	}
}

func TestProcessorsOfALargeMachineComeByDoubling(t *testing.T) {
	g := governor{now: 1, most: 20}
	for _, want := range []int{2, 4, 8, 16, 20, 20} {
		if n := g.next(float64(g.now)); n != want {
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
