package ipsec

import (
	"context"
	"sync"
	"time"
)

const (
	// settle is how long there is between two looks.
	settle = 50 * time.Millisecond

	// restPerLook is how many times as long as a look takes the next one waits:
	// a gateway may have many policies, and hear of new ones all the time. It
	// waits no longer than mostRest.
	restPerLook = 4
	mostRest    = 400 * time.Millisecond

	// trail is when to look once more after the last that was heard: charon
	// tells of an end shortly before it has come.
	trail = 250 * time.Millisecond

	// pollEvery is when to look if nothing is heard, for what nobody tells of,
	// such as a setting of the kernel; and pollDeaf where hearing is not allowed.
	pollEvery = 5 * time.Second
	pollDeaf  = 500 * time.Millisecond
)

// watch calls changed at first, and whenever the protection of any path may have
// become another, until ctx ends, with a new view. It calls within half a second,
// one call at a time, from the goroutine that called it. Everything that it
// started has ended when it returns.
//
// It hears of changes from the kernel, which takes CAP_NET_ADMIN on Linux, and
// from charon. Who may not hear looks every 500 ms.
func (d *Detector) watch(ctx context.Context, every time.Duration, changed func(*View)) {
	ctx, stop := context.WithCancel(ctx)
	var listeners sync.WaitGroup
	defer listeners.Wait()
	defer stop()
	hints := make(chan struct{}, 1)
	hears := d.listen(ctx, &listeners, func() {
		select {
		case hints <- struct{}{}:
		default: // there is one that nobody has taken yet
		}
	})
	if !hears {
		every = min(every, pollDeaf)
	}
	keepLooking(ctx, hints, every, func() { changed(d.View()) })
}

// keepLooking looks after every hint, once more when there are no more of them,
// and else as often as every says.
func keepLooking(ctx context.Context, hints <-chan struct{}, every time.Duration, look func()) {
	for next := trail; ctx.Err() == nil; {
		began := time.Now()
		look()
		if !sleep(ctx, min(max(settle, restPerLook*time.Since(began)), mostRest)) {
			return
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-hints:
			next = trail
		case <-timer.C:
			next = every
		}
		timer.Stop()
	}
}

// sleep waits; false says that ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
