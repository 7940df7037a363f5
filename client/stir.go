package client

import (
	"context"
	"sync"
	"time"

	"github.com/adit-net/adit/client/netwatch"
)

// stirs tells everybody who waits that the network has changed, or that the
// machine has slept.
type stirs struct {
	mu   sync.Mutex
	ch   chan struct{} // closed at the next one
	woke time.Time     // when the machine woke last
}

func newStirs() *stirs { return &stirs{ch: make(chan struct{})} }

// next gives a channel that is closed when the network changes.
func (s *stirs) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

// slept tells whether the machine woke just now: what is to be examined has
// been asleep.
func (s *stirs) slept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.woke) < time.Second
}

func (s *stirs) stir(woke bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if woke {
		s.woke = time.Now()
	}
	close(s.ch)
	s.ch = make(chan struct{})
}

// watchNetwork watches the machine's network until ctx ends.
func watchNetwork(ctx context.Context, changed func(slept bool)) {
	netwatch.Watch(ctx, netwatch.Events{
		Changed: func() { changed(false) },
		Woke:    func(time.Duration) { changed(true) },
	})
}
