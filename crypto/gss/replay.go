package gss

import (
	"sync"
	"time"
)

const (
	// memory is how long an authenticator is known: from Skew before the time that it
	// says to Skew after it.
	memory = 2 * Skew

	// maxReplays is how many contexts may be accepted in this time: 437 a second.
	// At twice as many, 16 bytes each and the table around them, it takes 20 MiB.
	maxReplays = 1 << 18

	// maxPeerReplays is how many of them one principal may have, so that nobody keeps
	// the others out: 109 a second.
	maxPeerReplays = maxReplays / 4
)

// digest tells authenticators apart.
type digest [16]byte

// replays knows every authenticator that could come a second time. It keeps them
// for one to two times the memory, in two tables that take turns.
type replays struct {
	mu       sync.Mutex
	now, old map[digest]struct{}
	byPeer   map[string]int // how many in now are a principal's
	turned   time.Time      // when now was begun
}

// take fails with ErrReplay if d, which is a principal's, has been taken before, and with
// ErrBusy if there is no room to remember it: what cannot be remembered is not accepted.
func (r *replays) take(d digest, peer string, at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch age := at.Sub(r.turned); {
	case age >= 2*memory:
		r.begin(nil, at)
	case age >= memory:
		r.begin(r.now, at)
	}
	if _, known := r.now[d]; known {
		return ErrReplay
	}
	if _, known := r.old[d]; known {
		return ErrReplay
	}
	if len(r.now) >= maxReplays || r.byPeer[peer] >= maxPeerReplays {
		return ErrBusy
	}
	r.now[d] = struct{}{}
	r.byPeer[peer]++
	return nil
}

// begin begins a table after the last one.
func (r *replays) begin(last map[digest]struct{}, at time.Time) {
	r.now, r.old, r.byPeer, r.turned = make(map[digest]struct{}), last, make(map[string]int), at
}
