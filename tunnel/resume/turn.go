package resume

import (
	"sync"
	"time"
)

// Who moves data without ever having to wait keeps others waiting. Go looks for what has come from
// the network when a processor has no goroutine left to run, and else every 10 ms only; and the
// kernel may find out at its next tick only, which is as far away, that another thread has waited
// long enough for a processor.
const (
	// glanceTime is how long data may move before Go is made to look at the network, and glanceChat
	// how long while somebody chats.
	glanceTime = 3 * time.Millisecond
	glanceChat = 75 * time.Microsecond

	// yieldTime is how long data may move, while somebody chats, before other threads have their
	// turn. It may move yieldShare times as long as that took before: on a machine that
	// is never idle, no more than a fifth is given away.
	yieldTime  = 400 * time.Microsecond
	yieldShare = 4

	// wordTime is how long others have had no turn when they get one after a word: it is passed on, and
	// who waits for it may wait for this processor, too. They are given no more than half for that.
	wordTime = 50 * time.Microsecond

	// movesTime is how long after the last piece data counts as moving. If none moves nobody has to give
	// way: who has passed on a word is about to wait.
	movesTime = time.Millisecond
)

// GiveWay is for who moves much data and is between two pieces of it: others have their turn, if
// it is time for that. It waits for nothing else.
func (p *Pipe) GiveWay() { p.turns.take(p, false) }

// GiveWayToWord is for who has passed on a word of somebody who chats: others have their turn, if much
// data moves that they would wait for. It waits for nothing else.
func (p *Pipe) GiveWayToWord() { p.turns.take(p, true) }

// turns knows when others have had theirs.
type turns struct {
	mu      sync.Mutex
	moved   time.Time // when data did
	glanced time.Time
	yielded time.Time
	took    time.Duration // of that
}

// take has others take theirs, after a word or else after a piece of data.
func (t *turns) take(p *Pipe, word bool) {
	if !t.mu.TryLock() {
		return // somebody else does
	}
	defer t.mu.Unlock()
	now := time.Now()
	var glance, yield bool
	if word {
		yield = t.dueToWord(now)
	} else {
		t.moved = now
		glance, yield = t.due(now, p.chatting(now))
	}
	if yield {
		yieldProcessor()
		t.yielded = time.Now()
		t.took = t.yielded.Sub(now)
	}
	if glance {
		glanceAtNetwork()
		t.glanced = time.Now()
	}
}

// due tells what it is time for after a piece of data.
func (t *turns) due(now time.Time, chatting bool) (glance, yield bool) {
	if !chatting {
		return now.Sub(t.glanced) >= glanceTime, false
	}
	return now.Sub(t.glanced) >= glanceChat, now.Sub(t.yielded) >= max(yieldTime, yieldShare*t.took)
}

// dueToWord tells whether it is time after a word.
func (t *turns) dueToWord(now time.Time) (yield bool) {
	return now.Sub(t.moved) < movesTime && now.Sub(t.yielded) >= max(wordTime, t.took)
}
