package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"testing"
	"time"
)

func TestRoomForGarbageIsThatOfASmallHeap(t *testing.T) {
	for _, test := range []struct {
		live int64
		want int
	}{
		{0, 400},
		{4 << 20, 400},
		{8 << 20, 200},
		{16 << 20, 100},
		{1 << 30, 100},
	} {
		if got := percentFor(test.live, 16<<20); got != test.want {
			t.Errorf("with %d bytes in use the heap may grow by %d %%, want %d", test.live, got, test.want)
		}
	}
}

func TestRoomForGarbageIsThereWhileBusy(t *testing.T) {
	t.Setenv("GOGC", "") // it may be set for the test
	defer debug.SetGCPercent(debug.SetGCPercent(usualPercent))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { giveBack(ctx, 1<<40, func(memory) {}) })
	work := func() {
		for gcPercent() == usualPercent {
			kept = make([]byte, 64<<10)
		}
	}
	work()
	for gcPercent() != usualPercent { // now that it is quiet
		time.Sleep(time.Millisecond)
	}
	work()
	cancel()
	running.Wait()
	if percent := gcPercent(); percent != usualPercent {
		t.Errorf("the heap may grow by %d %% afterwards", percent)
	}
}

var kept []byte // so that it is allocated

func gcPercent() int {
	samples := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(samples)
	return int(samples[0].Value.Uint64())
}
