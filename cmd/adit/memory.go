package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// leanLimit is what a client's memory may come to before the garbage collector
	// minds, in bytes. Beside it some 15 MiB of the program itself are resident, and systems for handheld
	// devices allow 50 in all.
	leanLimit = 24 << 20

	leanPeriod = time.Second
)

// stayLean keeps the process's memory close to what it has in use, until ctx
// ends. By itself the collector lets garbage come to as much again. A limit that the user has
// set stands.
func stayLean(ctx context.Context) error {
	if os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(leanLimit))
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for tick := time.NewTicker(leanPeriod); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
			metrics.Read(live)
			debug.SetMemoryLimit(leanLimitAt(int64(live[0].Value.Uint64())))
		}
	}
}

// leanLimitAt is the limit for so many bytes in use. It stays above them, or the
// collector would do nothing but look for what is not there.
func leanLimitAt(live int64) int64 {
	return max(leanLimit, live+live/5+2<<20)
}
