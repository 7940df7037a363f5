package ipseclink

import (
	"sync"
	"time"
)

// When to ask whether packets get through. It is asked only while there are datagrams to
// send.
const (
	confirmEvery = 2 * time.Second        // while answers come
	askAgain     = 250 * time.Millisecond // after a question, if there is no answer
	askSeldom    = 30 * time.Second       // at last, if there never is one; longer each time until then
	unheard      = 4 * time.Second        // is how long answers may be missing until nothing is taken to get through
	stale        = time.Minute            // is how old an answer may be
)

// proof knows how long the messages are that get through. The zero value knows of none.
// Safe for concurrent use.
type proof struct {
	mu       sync.Mutex
	size     int       // of the longest that does; 0: none
	answered time.Time // when it was known last
	asked    time.Time
	since    time.Time // when it was asked first that has not been answered; zero: all has been
	pause    time.Duration
}

// look gives the longest that gets through, and whether to ask now; so it must be done
// then.
func (p *proof) look(now time.Time) (size int, ask bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	waits := !p.since.IsZero()
	if p.size > 0 && (waits && now.Sub(p.since) > unheard || now.Sub(p.answered) > stale) {
		p.size, p.pause = 0, 0
	}
	wait := confirmEvery
	switch {
	case p.size == 0:
		wait = p.pause
	case waits:
		wait = askAgain
	}
	if now.Sub(p.asked) < wait {
		return p.size, false
	}
	if p.size == 0 {
		p.pause = min(max(2*p.pause, askAgain), askSeldom)
	}
	if p.asked = now; !waits {
		p.since = now
	}
	return p.size, true
}

// answer notes that a message has come through.
func (p *proof) answer(now time.Time, size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size, p.answered = max(p.size, size), now
	p.since, p.pause = time.Time{}, 0
}

// shrink notes that one has not, although it was no longer than that.
func (p *proof) shrink() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size > 0 {
		p.size, p.pause, p.asked = 0, 0, time.Time{}
	}
}
