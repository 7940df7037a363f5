package resume

import (
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel/giveway"
)

// Who moves data without ever having to wait keeps others waiting: see package giveway.
const (
	// glanceTime is how long data may move before Go is made to look at the network, and glanceChat
	// how long while somebody chats.
	glanceTime = 3 * time.Millisecond
	glanceChat = 75 * time.Microsecond

	// yieldTime is how long data may move, while somebody chats, before other threads have their
	// turn. It may move yieldShare times as long as that took before: on a machine that
	// is never idle, no more than a fifth is given away.
	yieldTime  = 700 * time.Microsecond
	yieldShare = 4
)

// GiveWay is for who moves much data and is between two pieces of it: others have their turn, if
// it is time for that. It waits for nothing else.
func (p *Pipe) GiveWay() {
	t := &p.turns
	if !t.mu.TryLock() {
		return // somebody else does
	}
	defer t.mu.Unlock()
	now := time.Now()
	glance, yield := t.due(now, p.chatting(now))
	if yield {
		giveway.ToThreads()
		t.yielded = time.Now()
		t.took = t.yielded.Sub(now)
	}
	if glance {
		giveway.ToNetwork()
		t.glanced = time.Now()
	}
}

// turns knows when others have had theirs.
type turns struct {
	mu      sync.Mutex
	glanced time.Time
	yielded time.Time
	took    time.Duration // of that
}

// due tells what it is time for.
func (t *turns) due(now time.Time, chatting bool) (glance, yield bool) {
	if !chatting {
		return now.Sub(t.glanced) >= glanceTime, false
	}
	return now.Sub(t.glanced) >= glanceChat, now.Sub(t.yielded) >= max(yieldTime, yieldShare*t.took)
}
