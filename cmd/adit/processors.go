package main

import (
	"context"
	"os"
	"runtime"
	"time"
)

const (
	// How often to look at the load of a process that has some, and of one that has not, in
	// which the collector has not run either.
	loadPeriod = 250 * time.Millisecond
	idlePeriod = 10 * time.Second

	// tooFew is the load of each processor at which as many again are of use. One fewer is
	// enough if its load were below enough, and that for enoughPeriods.
	tooFew        = 0.93
	enough        = 0.6
	enoughPeriods = 8

	// noLoad is what a process may do and count as idle.
	noLoad = 0.02
)

// useFewProcessors lets Go run goroutines on as few processors as have enough time for them,
// until ctx ends. With more of them it wakes a thread for every goroutine that others wake,
// which costs more than what most of these do: on one processor a client or a server
// carries a sixth more, with a fifth less work. What the user has set stands.
//
// A goroutine that does not pause keeps the only processor for 10 ms at most, and a login's
// password hash has it in turn with all else: whoever waits then, waits that long.
func useFewProcessors(ctx context.Context) error {
	most := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") != "" || most == 1 {
		return nil
	}
	g := governor{now: 1, most: most}
	runtime.GOMAXPROCS(g.now)
	defer runtime.GOMAXPROCS(most)
	runs := make(chan struct{}, 1)
	tellOfRuns(ctx, runs)
	look := time.NewTimer(loadPeriod)
	defer look.Stop()
	for before, at := processorTime(), time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-runs:
			look.Reset(loadPeriod)
			continue
		case <-look.C:
		}
		after := processorTime()
		load := float64(after-before) / float64(time.Since(at))
		at, before = time.Now(), after
		if was := g.now; g.next(load) != was {
			runtime.GOMAXPROCS(g.now)
		}
		if load < noLoad && g.now == 1 {
			look.Reset(idlePeriod)
		} else {
			look.Reset(loadPeriod)
		}
	}
}

// governor decides how many processors to use.
type governor struct {
	now, most int
	spare     int // periods in a row in which one fewer would have been enough
}

// next takes the load of a period, in processors, and gives how many to use from now on.
func (g *governor) next(load float64) int {
	if load >= enough*float64(g.now-1) {
		g.spare = 0
	} else {
		g.spare++
	}
	switch {
	case load >= tooFew*float64(g.now) && g.now < g.most:
		g.now = min(2*g.now, g.most) // how many are of use shows then
	case g.spare >= enoughPeriods && g.now > 1:
		g.now--
		g.spare = 0
	}
	return g.now
}
