package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// leanLimit is what a client's memory may come to before the garbage collector
	// minds, in bytes. Beside it some 15 MiB of the program itself are resident, and systems for handheld
	// devices allow 50 in all.
	leanLimit = 24 << 20

	// A process is quiet while it allocates less than quietBytes in quietPeriod. Then it
	// gives memory back, if worthBytes were allocated since the last time.
	quietPeriod = 100 * time.Millisecond
	quietBytes  = 64 << 10
	worthBytes  = 1 << 20
)

// stayLean keeps the process's memory close to what it has in use, until ctx ends. By
// itself the collector lets garbage come to as much again. A limit that the user has set
// stands.
func stayLean(ctx context.Context) error {
	if os.Getenv("GOMEMLIMIT") != "" {
		return giveBack(ctx, func(memory) {})
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(leanLimit))
	return giveBack(ctx, func(m memory) { debug.SetMemoryLimit(leanLimitAt(m)) })
}

// leanLimitAt is the limit where so much is in use. It stays above that, or the
// collector would do nothing but look for what is not there.
func leanLimitAt(m memory) int64 {
	return max(leanLimit, m.fixed()+m.live+m.live/5+2<<20)
}

// giveBack gives the system back what the process does not need any more, whenever it
// becomes quiet, until ctx ends. The collector runs only while something allocates, and
// leaves what the last burst has taken. collected, which is told of each of its runs, and
// the looks for quiet come with those: nothing happens in a process that does nothing.
func giveBack(ctx context.Context, collected func(memory)) error {
	runs := make(chan struct{}, 1)
	tellOfRuns(ctx, runs)
	look := time.NewTimer(quietPeriod) // after what there was to do at the start
	defer look.Stop()
	last, given := readMemory(), int64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-runs:
			collected(readMemory())
			look.Reset(quietPeriod)
			continue
		case <-look.C:
		}
		now := readMemory()
		busy := now.allocated-last.allocated >= quietBytes
		last = now
		switch {
		case busy:
			look.Reset(quietPeriod)
		case now.allocated-given >= worthBytes:
			given = now.allocated
			runtime.GC() // a sync.Pool loses what it has in the second run only
			debug.FreeOSMemory()
		}
	}
}

// tellOfRuns sends to runs when the collector has run, until ctx ends.
func tellOfRuns(ctx context.Context, runs chan<- struct{}) {
	type token struct{ _ *token } // with a pointer, so that it shares its place with nothing
	runtime.AddCleanup(new(token), func(struct{}) {
		if ctx.Err() != nil {
			return
		}
		select {
		case runs <- struct{}{}:
		default:
		}
		tellOfRuns(ctx, runs)
	}, struct{}{})
}

// memory says how much of the process's memory, in bytes, is what. It counts what the Go runtime
// has from the system.
type memory struct {
	total     int64 // not given back
	objects   int64 // in the heap, garbage among them
	free      int64 // in the heap, for more objects
	live      int64 // objects that the collector's last run has found in use
	allocated int64 // objects since the start
}

func readMemory() memory {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(samples)
	at := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
	return memory{total: at(0) - at(1), objects: at(2), free: at(3), live: at(4), allocated: at(5)}
}

// fixed is what is no object: stacks and what the runtime needs.
func (m memory) fixed() int64 { return m.total - m.objects - m.free }
