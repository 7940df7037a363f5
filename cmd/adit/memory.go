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

	// What may become garbage before the collector runs, in bytes, where what is in use is
	// less than that. By itself it lets a small heap grow to twice its size only, and
	// to 4 MiB at least: then it runs ten times a second in a process with many short sessions,
	// and each of its runs holds up whoever comes in it.
	leanRoom   = 8 << 20
	serverRoom = 16 << 20

	// busyRuns of the collector without quiet between them show that a process goes on being
	// busy.
	busyRuns = 2

	// A process is quiet while it allocates less than quietBytes in quietPeriod. Then it
	// gives memory back, if worthBytes were allocated since the last time.
	quietPeriod = 100 * time.Millisecond
	quietBytes  = 64 << 10
	worthBytes  = 1 << 20
)

// stayLean keeps a client's memory close to what it has in use, until ctx ends. What the user
// has set stands.
func stayLean(ctx context.Context) error {
	if os.Getenv("GOMEMLIMIT") != "" {
		return giveBack(ctx, leanRoom, func(memory) {})
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(leanLimit))
	return giveBack(ctx, leanRoom, func(m memory) { debug.SetMemoryLimit(leanLimitAt(m)) })
}

// percentFor is by how much the heap may grow, in per cent of what is in use, where room is
// to be left. The runtime multiplies the 4 MiB with it, too.
func percentFor(live, room int64) int {
	return int(max(usualPercent, room*usualPercent/max(live, 4<<20)))
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
// While the process is busy there is room for garbage, unless the user has set how much there
// is to be.
func giveBack(ctx context.Context, room int64, collected func(memory)) error {
	g := garbage{room: room}
	if os.Getenv("GOGC") == "" {
		g.percent = usualPercent
		defer g.allow(usualPercent)
	}
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
			m := readMemory()
			collected(m)
			g.collected(m)
			look.Reset(quietPeriod)
			continue
		case <-look.C:
		}
		now := readMemory()
		busy := now.allocated-last.allocated >= quietBytes
		last = now
		if busy {
			look.Reset(quietPeriod)
			continue
		}
		g.allow(usualPercent)
		g.quiet = now.runs
		if now.allocated-given >= worthBytes {
			given = now.allocated
			runtime.GC() // a sync.Pool loses what it has in the second run only
			debug.FreeOSMemory()
		}
	}
}

const usualPercent = 100 // of what is in use, by which the heap grows between two runs

// garbage says how much of it there may be.
type garbage struct {
	room    int64
	percent int    // 0: as the user has set it
	quiet   uint64 // runs of the collector, by itself, before it was quiet the last time
}

// collected leaves room if the process goes on being busy. What a short burst leaves behind for longer
// is closer together without room.
func (g *garbage) collected(m memory) {
	if m.runs-g.quiet < busyRuns {
		return
	}
	if p := percentFor(m.live, g.room); p < g.percent || p > g.percent+g.percent/8 {
		g.allow(p)
	}
}

func (g *garbage) allow(percent int) {
	if g.percent != 0 && g.percent != percent {
		g.percent = percent
		debug.SetGCPercent(percent)
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
	total     int64  // not given back
	objects   int64  // in the heap, garbage among them
	free      int64  // in the heap, for more objects
	live      int64  // objects that the collector's last run has found in use
	allocated int64  // objects since the start
	runs      uint64 // of the collector since the start, without those that were asked for
}

func readMemory() memory {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/cycles/automatic:gc-cycles"},
	}
	metrics.Read(samples)
	at := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
	return memory{total: at(0) - at(1), objects: at(2), free: at(3), live: at(4), allocated: at(5), runs: samples[6].Value.Uint64()}
}

// fixed is what is no object: stacks and what the runtime needs.
func (m memory) fixed() int64 { return m.total - m.objects - m.free }
