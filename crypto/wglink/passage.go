package wglink

import (
	"sync/atomic"
	"time"
)

// How many packets may be inside WireGuard, each way. It has queues of its own, which
// would take all memory there is: every packet has 64 KiB. A client's system may allow it
// little. A server's processors each work on a batch.
const (
	clientInside = 2 * batch
	serverInside = 16 * batch
)

// insideFor is for how long nothing may come out of WireGuard before what is inside
// is believed to be lost: it had no keys for it, or it was forged.
const insideFor = 5 * time.Millisecond

// passage knows how many packets are inside WireGuard.
type passage struct {
	most int64    // that may be
	out  *counter // of those that have come out
	lost uint64   // those that never will
}

// hold waits while there are too many inside of those that went in.
func (p *passage) hold(in uint64) {
	for {
		inside := int64(in - p.lost - p.out.n.Load())
		if inside < p.most {
			if inside < 0 { // something came out late
				p.lost += uint64(inside)
			}
			return
		}
		select {
		case <-p.out.moved:
		case <-time.After(insideFor):
			p.lost = in - p.out.n.Load()
		}
	}
}

// counter counts, and can be waited for.
type counter struct {
	n     atomic.Uint64
	moved chan struct{} // has room for one
}

func newCounter() *counter { return &counter{moved: make(chan struct{}, 1)} }

func (c *counter) add(n int) {
	c.n.Add(uint64(n))
	select {
	case c.moved <- struct{}{}:
	default:
	}
}
