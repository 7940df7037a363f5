package audit

import (
	"time"

	"github.com/adit-net/adit/tunnel/giveway"
)

const (
	// writeTime is how long rows are written or read before connections have their turn. On the
	// one processor that a server with little to do keeps to, nothing else moves meanwhile.
	writeTime = 50 * time.Microsecond

	// Others may take pauseShare times as long as rows were written before, and all pauses
	// of a transaction pauseLimit: other processes wait for its end, and the flows of
	// a strict Writer do.
	pauseShare = 3
	pauseLimit = 200 * time.Millisecond
)

// pauses are those of a transaction.
type pauses struct {
	over time.Time     // the last one
	took time.Duration // that long
	all  time.Duration // of them
}

// giveWay is for who is between two rows: others have their turn, if it is time for that. Those
// whom a connection waits for may wait for this thread's processor themselves.
func (p *pauses) giveWay() {
	now := time.Now()
	if !p.due(now) {
		return
	}
	giveway.ToThreads()
	giveway.ToNetwork()
	p.over = time.Now()
	p.took = p.over.Sub(now)
	p.all += p.took
}

// due tells whether it is time for a pause.
func (p *pauses) due(now time.Time) bool {
	return p.all < pauseLimit && now.Sub(p.over) >= max(writeTime, p.took/pauseShare)
}
