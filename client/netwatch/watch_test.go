package netwatch

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is what a watcher sees, and what it tells of it. Its time is a bubble's.
// A script holds mu, but not while time passes.
type world struct {
	t      *testing.T
	mu     sync.Mutex
	net    uint64        // another number is another network
	hidden bool          // looks fail
	cost   time.Duration // of a look
	leap   time.Duration // of the wall clock
	hints  chan struct{}
	wakes  chan struct{}

	start   time.Time
	looks   []time.Duration // when somebody looked
	changes []time.Duration // when Changed was called
	sleeps  []time.Duration // what Woke was told
	clocks  int             // how often somebody read them
}

// watch runs a watcher in a bubble while script plays.
func watch(t *testing.T, poll bool, script func(*world)) {
	play(t, poll, false, script)
}

// watchTold does the same where the kernel tells of the machine's wake, too.
func watchTold(t *testing.T, script func(*world)) { play(t, false, true, script) }

func play(t *testing.T, poll, told bool, script func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, start: time.Now(), hints: make(chan struct{}, 1)}
		if told {
			w.wakes = make(chan struct{}, 1)
		}
		watched := watcher{clock: w.clock, look: w.look, poll: poll, wakes: w.wakes, seed: maphash.MakeSeed()}
		watched.Changed = w.changed
		watched.Woke = w.woke
		if !poll {
			watched.hints = w.hints
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			watched.run(ctx)
		}()
		synctest.Wait()
		w.mu.Lock()
		script(w)
		w.mu.Unlock()
		cancel()
		<-done
	})
}

func (w *world) now() time.Duration { return time.Since(w.start) }

func (w *world) clock() reading {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clocks++
	return reading{wall: w.now() + w.leap, mono: w.now()}
}

func (w *world) look(f *fingerprint) error {
	w.mu.Lock()
	cost := w.cost
	w.mu.Unlock()
	time.Sleep(cost)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks = append(w.looks, w.now())
	if w.hidden {
		return errors.New("nothing can be seen")
	}
	f.add(binary.BigEndian.AppendUint64(nil, w.net))
	return nil
}

func (w *world) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, w.now())
}

func (w *world) woke(slept time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sleeps = append(w.sleeps, slept)
}

// pass lets time pass, and everybody do what is to be done then.
func (w *world) pass(d time.Duration) {
	w.mu.Unlock()
	defer w.mu.Lock()
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) hint() {
	select {
	case w.hints <- struct{}{}:
	default:
	}
	w.pass(0)
}

func (w *world) wantChanges(want ...time.Duration) {
	w.t.Helper()
	if !slices.Equal(w.changes, want) {
		w.t.Errorf("changes were told at %v, want %v", w.changes, want)
	}
}

func TestFirstChangeIsToldAtOnce(t *testing.T) {
	watch(t, false, func(w *world) {
		w.pass(10300 * time.Millisecond)
		w.net++
		w.hint()
		w.wantChanges(10300 * time.Millisecond)
		w.pass(time.Minute)
		w.wantChanges(10300 * time.Millisecond)
	})
}

func TestChangesInQuickSuccessionAreToldTogether(t *testing.T) {
	watch(t, false, func(w *world) {
		w.pass(time.Second)
		for range 50 {
			w.net++
			w.hint()
			w.pass(5 * time.Millisecond)
		}
		w.pass(time.Minute)
		w.wantChanges(1000*time.Millisecond, 1100*time.Millisecond, 1200*time.Millisecond, 1300*time.Millisecond)
	})
}

func TestWhatAChangeBringsAlongWithoutANoticeIsTold(t *testing.T) {
	watch(t, false, func(w *world) {
		w.net++
		w.hint()
		w.pass(30 * time.Millisecond)
		w.net++
		w.pass(time.Minute)
		w.wantChanges(0, 100*time.Millisecond)
	})
}

func TestNoiseIsNoChange(t *testing.T) {
	watch(t, false, func(w *world) {
		for range 1000 {
			w.hint()
			w.pass(time.Millisecond)
		}
		w.pass(time.Minute)
		w.wantChanges()
		if n := len(w.looks); n < 10 || n > 13 {
			t.Errorf("a second of noise took %d looks, want about 10", n)
		}
	})
}

func TestNobodyLooksWhileNothingHappens(t *testing.T) {
	watch(t, false, func(w *world) {
		w.pass(time.Hour)
		if n := len(w.looks); n != 1 {
			t.Errorf("looked %d times, want once", n)
		}
	})
}

func TestWithoutNoticesAChangeIsSeenWithinTwoSeconds(t *testing.T) {
	watch(t, true, func(w *world) {
		for range 10 {
			w.changes = nil
			w.net++
			w.pass(pollEvery + settle)
			if len(w.changes) != 1 {
				t.Errorf("changes were told at %v", w.changes)
			}
		}
		w.looks = nil
		w.pass(time.Minute)
		if n := len(w.looks); n < 25 || n > 30 {
			t.Errorf("looked %d times in a minute", n)
		}
	})
}

func TestWhenNoticesEndChangesAreStillSeen(t *testing.T) {
	watch(t, false, func(w *world) {
		close(w.hints)
		w.pass(time.Second)
		w.net++
		w.pass(pollEvery + settle)
		if len(w.changes) != 1 {
			t.Errorf("changes were told at %v", w.changes)
		}
		w.looks = nil
		w.pass(time.Minute)
		if n := len(w.looks); n > 30 {
			t.Errorf("looked %d times in a minute", n)
		}
	})
}

func TestChangeThatCouldNotBeSeenIsToldLater(t *testing.T) {
	watch(t, false, func(w *world) {
		w.hidden = true
		w.net++
		w.hint()
		w.pass(10 * time.Second)
		w.wantChanges()
		if n := len(w.looks); n > 12 {
			t.Errorf("looked %d times in 10 s", n)
		}
		w.hidden = false
		w.pass(tick + settle)
		if len(w.changes) != 1 {
			t.Errorf("changes were told at %v", w.changes)
		}
	})
}

func TestDearLooksAreRare(t *testing.T) {
	watch(t, false, func(w *world) {
		w.cost = time.Second
		for range 600 {
			w.net++
			w.hint()
			w.pass(100 * time.Millisecond)
		}
		if n := len(w.looks); n > 5 {
			t.Errorf("looked %d times in a minute, for a second each", n)
		}
		if len(w.sleeps) > 0 {
			t.Errorf("looking was taken for sleep: %v", w.sleeps)
		}
	})
}

func TestSleepIsToldOnce(t *testing.T) {
	watch(t, false, func(w *world) {
		w.pass(5500 * time.Millisecond)
		w.leap += time.Hour // the machine sleeps, and this bubble with it
		w.pass(tick)
		if want := []time.Duration{time.Hour}; !slices.Equal(w.sleeps, want) {
			t.Errorf("slept %v, want %v", w.sleeps, want)
		}
		w.pass(time.Hour)
		if len(w.sleeps) != 1 {
			t.Errorf("slept %v", w.sleeps)
		}
	})
}

func TestHintThatWakesUsTellsTheSleep(t *testing.T) {
	watch(t, false, func(w *world) {
		w.pass(5500 * time.Millisecond)
		w.leap += time.Hour
		w.hint()
		if len(w.sleeps) != 1 {
			t.Errorf("slept %v", w.sleeps)
		}
	})
}

func TestSleepThatTheKernelTellsOfIsToldAtOnce(t *testing.T) {
	watchTold(t, func(w *world) {
		w.pass(longTick + longTick/2)
		w.leap += time.Hour
		w.wakes <- struct{}{}
		w.pass(0)
		if want := []time.Duration{time.Hour}; !slices.Equal(w.sleeps, want) {
			t.Errorf("slept %v, want %v", w.sleeps, want)
		}
		w.wakes <- struct{}{} // somebody sets a clock that is right
		w.pass(time.Hour)
		if len(w.sleeps) != 1 || len(w.looks) != 1 {
			t.Errorf("slept %v, looked at %v", w.sleeps, w.looks)
		}
	})
}

func TestWatcherRestsLongIfTheKernelTellsOfSleep(t *testing.T) {
	watchTold(t, func(w *world) {
		w.clocks = 0
		w.pass(time.Minute)
		if most := int(time.Minute / longTick); w.clocks > most {
			t.Errorf("woke %d times in a minute, want %d", w.clocks, most)
		}
		close(w.wakes)
		w.pass(0)
		w.clocks = 0
		w.pass(time.Minute)
		if least := int(time.Minute/tick) - 1; w.clocks < least {
			t.Errorf("woke %d times in a minute, want %d, as nobody tells of sleep any more", w.clocks, least)
		}
	})
}

func TestClockThatIsSetBackIsNoSleep(t *testing.T) {
	watch(t, false, func(w *world) {
		w.leap -= 24 * time.Hour
		w.pass(time.Minute)
		w.leap += time.Second // slowly forward
		w.pass(time.Minute)
		if len(w.sleeps) > 0 {
			t.Errorf("slept %v", w.sleeps)
		}
	})
}

func TestSleepIsWhatTheClocksCannotExplain(t *testing.T) {
	const s = time.Second
	const most = time.Duration(1<<63 - 1)
	tests := []struct {
		name       string
		wall, mono time.Duration
		want       time.Duration
	}{
		{"on time", s, s, 0},
		{"a hint came early", 0, 0, 0},
		{"a busy machine", 2 * s, 2 * s, 0},
		{"almost a sleep", 3*s - 1, 3*s - 1, 0},
		{"stopped", 3 * s, 3 * s, 2 * s},
		{"stopped for long", 121 * s, 121 * s, 120 * s},
		{"suspended", 3601 * s, s, 3600 * s},
		{"suspended, and a hint came first", 3600 * s, 0, 3600 * s},
		{"suspended on a system whose clock goes on", 3601 * s, 3601 * s, 3600 * s},
		{"set forward a little", 2 * s, s, 0},
		{"set forward", 601 * s, s, 600 * s},
		{"set back", -600 * s, s, 0},
		{"set back while stopped", -600 * s, 121 * s, 120 * s},
		{"set to the end of time", most, s, most - s},
		{"set to the beginning of time", -most - 1, s, 0},
	}
	for _, test := range tests {
		for _, before := range []reading{{}, {wall: -5 * s, mono: 7 * s}} {
			if before.wall != 0 && test.wall < -600*s {
				continue // would not fit
			}
			after := reading{wall: before.wall + test.wall, mono: before.mono + test.mono}
			if got := slept(before, after, s); got != test.want {
				t.Errorf("%s: %v, want %v", test.name, got, test.want)
			}
		}
	}
}
