// Package netwatch tells at once when the machine's network has changed and
// when the machine has slept. A carrier may be dead then although nobody has
// said so, and a new one may be had where there was none.
package netwatch

import (
	"context"
	"errors"
	"hash/maphash"
	"os"
	"sync"
	"syscall"
	"time"
)

// Events is whom Watch tells. Both are called from the goroutine that called
// Watch, one at a time, and must return soon: nothing is told meanwhile, and a
// call of seconds looks like a sleep. nil is not called.
type Events struct {
	// Changed is called when links, addresses or routes are not what they were
	// at the last call. The first change is told at once, those that follow
	// within 100 ms together.
	Changed func()

	// Woke is called when the machine has slept for 2 s or more, or this process was
	// stopped for 2 s longer than Watch rests; slept is right to about as much as that.
	// A clock that somebody sets forward looks the same.
	Woke func(slept time.Duration)
}

// Watch watches until ctx ends. Everything that it started has ended then.
//
// On Linux the kernel says when to look, and when the machine wakes. Watch rests for
// 10 s at a time there. Where the kernel does not, as for apps on Android, Watch looks every
// 2 s; on macOS and FreeBSD it does both. It rests for a second then, which costs two wake-ups
// each, less than 0.1 % of one processor. While the kernel has much to say, looking takes 5 %
// of one at most.
func Watch(ctx context.Context, events Events) {
	w := watcher{Events: events, clock: newClock(), look: lookAround, poll: true, seed: maphash.MakeSeed()}
	if notices, look, err := subscribe(); err == nil {
		hints := make(chan struct{}, 1)
		var reader sync.WaitGroup
		defer reader.Wait()
		defer notices.Close()
		reader.Go(func() { read(notices, hints) })
		w.hints = hints
		if look != nil {
			w.look, w.poll = look, false
		}
	}
	if clock, err := subscribeToClock(); err == nil {
		wakes := make(chan struct{}, 1)
		var reader sync.WaitGroup
		defer reader.Wait()
		defer clock.Close()
		reader.Go(func() { read(clock, wakes) })
		w.wakes = wakes
	}
	w.run(ctx)
}

// read passes on that there are notices until they are closed. What they say
// does not matter, so all but a notice's first bytes is dropped; and one that the
// kernel had no room for is a notice too, as is that a clock was set.
func read(notices *os.File, hints chan<- struct{}) {
	defer close(hints)
	for b := make([]byte, 8); ; {
		if _, err := notices.Read(b); err != nil && !errors.Is(err, syscall.ENOBUFS) && !errors.Is(err, syscall.ECANCELED) {
			return
		}
		select {
		case hints <- struct{}{}:
		default: // there is one that nobody has taken yet
		}
	}
}

const (
	// tick is how late a wake is seen at most of which nobody tells: a timer stands
	// still while the machine sleeps. longTick is that of a process which was stopped,
	// where the kernel tells of the machine's wake.
	tick     = time.Second
	longTick = 10 * time.Second

	// pollEvery is how late a change is seen that nobody tells of.
	pollEvery = 2 * time.Second

	// settle is how long changes are gathered after one that was told. A link
	// that comes up brings its addresses and routes within this time.
	settle = 100 * time.Millisecond

	// restPerLook is how many times as long as a look takes the next one waits.
	// A router may hold a million routes, and hear of a new one all the time.
	restPerLook = 20
)

// watcher decides when to look and what to tell.
type watcher struct {
	Events
	clock func() reading
	look  func(*fingerprint) error
	hints <-chan struct{} // something may have changed; nil if nobody says so
	wakes <-chan struct{} // the machine may have slept; nil if nobody says so
	poll  bool            // hints do not tell of everything

	seed   maphash.Seed
	seen   uint64        // what the last look saw
	behind bool          // the last look failed
	looked time.Duration // when it ended, on the monotonic clock
	last   reading       // when the last wait ended
}

func (w *watcher) run(ctx context.Context) {
	w.last = w.clock()
	w.changed() // to have what to compare with
	for w.rest(ctx) {
		for moving := true; moving && ctx.Err() == nil; {
			began := w.clock().mono
			moving = w.changed()
			took := w.looked - began
			if moving && w.Changed != nil {
				w.Changed()
			}
			w.wait(ctx, nil, max(settle, restPerLook*took))
			moving = w.hinted() || moving // the kernel does not tell of every route that a change takes away
		}
	}
}

// rest waits until there is a reason to look; false says that ctx has ended.
func (w *watcher) rest(ctx context.Context) bool {
	for ctx.Err() == nil {
		pause := tick
		if w.wakes != nil && !w.behind && !w.poll {
			pause = longTick
		}
		hinted := w.wait(ctx, w.hints, pause)
		if hinted || w.behind || w.poll && w.clock().mono-w.looked >= pollEvery {
			break
		}
	}
	return ctx.Err() == nil
}

// wait waits for a hint or a wake, but no longer than d, and tells if it took too long. It
// counts from the end of the last wait: the machine may sleep during a call.
func (w *watcher) wait(ctx context.Context, hints <-chan struct{}, d time.Duration) (hinted bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case _, open := <-hints:
		hinted = true
		if !open {
			w.hints, w.poll = nil, true
		}
	case _, open := <-w.wakes:
		if !open {
			w.wakes = nil
		}
	case <-timer.C:
	}
	before := w.last
	w.last = w.clock()
	if away := slept(before, w.last, d); away > 0 && w.Woke != nil {
		w.Woke(away)
	}
	return hinted
}

// hinted takes a hint if there is one.
func (w *watcher) hinted() bool {
	select {
	case _, open := <-w.hints:
		return open
	default:
		return false
	}
}

// changed looks, and tells whether it saw something else than the last time.
// Since it looks at how things are, it does not matter which notices were lost.
func (w *watcher) changed() bool {
	f := fingerprint{seed: w.seed}
	err := w.look(&f)
	w.looked = w.clock().mono
	w.behind = err != nil
	if w.behind || f.sum == w.seen {
		return false
	}
	w.seen = f.sum
	return true
}

// fingerprint stands for a set of things, in whatever order they are added.
type fingerprint struct {
	seed maphash.Seed
	sum  uint64
}

func (f *fingerprint) add(thing []byte) { f.sum += maphash.Bytes(f.seed, thing) }
