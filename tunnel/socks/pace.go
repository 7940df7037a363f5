package socks

import (
	"sync"
	"time"
)

// Pace keeps a flood of events from becoming a flood of log lines. The zero Pace is
// ready; it is safe for concurrent use.
type Pace struct {
	mu   sync.Mutex
	next time.Time // when the last one is paid off
}

// paceBurst is how many lines come at once.
const paceBurst = 16

// Allows says yes to a line once a second in the long run, and to the first 16 at once.
func (p *Pace) Allows() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	if p.next.Sub(now) > (paceBurst-1)*time.Second {
		return false
	}
	p.next = p.next.Add(time.Second)
	return true
}
