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
	enoughPeriods = 4

	// Where so many goroutines begin in a second, and such a part of those that ran had to wait
	// so long before, short sessions come in batches. Then a second processor is of use
	// although the first is not full: without it the other end has nothing to do until
	// the batch is done.
	manyBegin = 1000
	longWait  = 100e-6 // seconds
	manyWait  = 0.1

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
	slackenTimers()
	most := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") != "" || most == 1 {
		return nil
	}
	g := governor{now: 1, most: most}
	runtime.GOMAXPROCS(g.now)
	defer runtime.GOMAXPROCS(most)
	runs := make(chan struct{}, 1)
	tellOfRuns(ctx, runs)
	period := loadPeriod
	look := time.NewTimer(period)
	defer look.Stop()
	var m meter
	m.read()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-runs:
			if period == idlePeriod { // not any more, it seems
				period = loadPeriod
				look.Reset(period)
			}
			continue
		case <-look.C:
		}
		w := m.read()
		if was := g.now; g.next(w) != was {
			runtime.GOMAXPROCS(g.now)
		}
		period = loadPeriod
		if w.load < noLoad && g.now == 1 {
			period = idlePeriod
		}
		look.Reset(period)
	}
}

// governor decides how many processors to use.
type governor struct {
	now, most int
	spare     int // periods in a row in which one fewer would have been enough
}

// next takes what a period was like, and gives how many processors to use from now on.
func (g *governor) next(w work) int {
	short := w.begin >= manyBegin && w.wait >= manyWait
	if w.load >= enough*float64(g.now-1) || short && g.now == 2 {
		g.spare = 0
	} else {
		g.spare++
	}
	switch {
	case w.load >= tooFew*float64(g.now) && g.now < g.most:
		g.now = min(2*g.now, g.most) // how many are of use shows then
	case short && g.now == 1:
		g.now = 2
	case g.spare >= enoughPeriods && g.now > 1:
		g.now--
		g.spare = 0
	}
	return g.now
}
