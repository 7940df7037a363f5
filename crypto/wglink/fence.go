package wglink

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	// maxWays is how many places may be known to be open, or to have been.
	maxWays = 16 << 10

	// maxUnused is for how many sweeps one is known that nobody uses. After as many
	// minutes no key is worth anything.
	maxUnused = 3
)

// Guard says whether a place may be talked to, until stop. way is called for each packet, and
// says by which interface those to the place must leave, by its number; 0: by any. Only on
// Linux can that be had.
type Guard func(place netip.AddrPort) (way func() (device uint32, open bool), stop func())

// fence says which places may be talked to. A nil one is around nobody.
type fence struct {
	guard Guard

	mu   sync.RWMutex // guards what follows
	ways map[netip.AddrPort]*way
}

// way is one to a place that was open when somebody came by it.
type way struct {
	now    func() (device uint32, open bool)
	stop   func()
	unused atomic.Int32 // for so many sweeps
}

func newFence(guard Guard) *fence {
	return &fence{guard: guard, ways: map[netip.AddrPort]*way{}}
}

// passes tells whether packets may come from a place, and go there, and by which interface.
// Nobody is asked but whoever watches a place that somebody has come from.
func (f *fence) passes(at netip.AddrPort) (device uint32, open bool) {
	f.mu.RLock()
	w := f.ways[at]
	f.mu.RUnlock()
	if w == nil {
		return 0, false
	}
	if w.unused.Load() > 0 {
		w.unused.Store(0)
	}
	return w.now()
}

// admits tells the same about a place that nobody may have come from yet. It is called by one
// goroutine at a time.
func (f *fence) admits(from netip.AddrPort) bool {
	f.mu.RLock()
	known, full := f.ways[from] != nil, len(f.ways) >= maxWays
	f.mu.RUnlock()
	if known {
		_, open := f.passes(from)
		return open
	}
	if full {
		return false
	}
	w := &way{}
	w.now, w.stop = f.guard(from)
	if _, open := w.now(); !open {
		w.stop()
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ways[from] = w
	return true
}

// sweep forgets places that nothing has come from, nor gone to, for long.
func (f *fence) sweep() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for at, w := range f.ways {
		if w.unused.Add(1) > maxUnused {
			w.stop()
			delete(f.ways, at)
		}
	}
}

// close forgets all places, which none is added to any more.
func (f *fence) close() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.ways {
		w.stop()
	}
	clear(f.ways)
}
