package server

import (
	"bytes"
	"sync"
	"time"

	"github.com/adit-net/adit/server/shape"
	"github.com/adit-net/adit/tunnel/socks"
)

// Bounds on the datagrams of one direction of an association that wait for bandwidth.
// What would be more is lost, and so is what has waited for longer when its turn comes.
const (
	queueDatagrams = 256
	queueBytes     = 256 << 10
	queueWait      = 250 * time.Millisecond
)

// datagramQueue is where the datagrams of one direction wait for bandwidth. While none
// has to, it passes them on at once. Its goroutine runs while something waits.
type datagramQueue struct {
	part *part
	way  shape.Direction
	pass func(batch []socks.Datagram) // not called concurrently; does not wait

	draining sync.WaitGroup

	mu      sync.Mutex // held while pass is called
	waiting []waitingDatagram
	size    int  // bytes of these
	credit  int  // bytes of these that have had their turn
	begun   bool // the first was not too old when it became that
	busy    bool
	closed  bool
}

type waitingDatagram struct {
	socks.Datagram
	since time.Time
}

// put passes datagrams on when there is bandwidth for them, and keeps nothing of
// batch.
func (q *datagramQueue) put(batch []socks.Datagram) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.part.holds() {
		return // nobody knows for how long
	}
	n := 0
	for !q.busy && n < len(batch) && q.part.flow.Try(q.way, len(batch[n].Payload)) {
		n++
	}
	if n > 0 {
		q.pass(batch[:n])
	}
	for _, d := range batch[n:] {
		q.keep(d)
	}
}

// keep has a datagram wait, if there is room.
func (q *datagramQueue) keep(d socks.Datagram) {
	if q.closed || len(q.waiting) == queueDatagrams || q.size+len(d.Payload) > queueBytes {
		q.part.bandwidth.lost.Add(1)
		return
	}
	d.Payload = bytes.Clone(d.Payload)
	q.waiting = append(q.waiting, waitingDatagram{d, time.Now()})
	q.size += len(d.Payload)
	if !q.busy {
		q.busy = true
		q.draining.Go(q.drain)
	}
}

// drain passes on what waits, until nothing does.
func (q *datagramQueue) drain() {
	for {
		need, ok := q.need()
		if !ok {
			return
		}
		got, err := q.part.flow.Take(q.way, need)
		if err != nil {
			q.close() // the flow has ended
			continue
		}
		q.release(got)
	}
}

// need is how many bytes must have their turn for all that waits. The first has not waited for
// too long when that begins. If nothing waits, the goroutine has to end.
func (q *datagramQueue) need() (n int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for oldest := time.Now().Add(-queueWait); !q.begun && len(q.waiting) > 0; {
		if q.begun = q.waiting[0].since.After(oldest); !q.begun {
			q.take()
			q.part.bandwidth.lost.Add(1)
		}
	}
	if len(q.waiting) == 0 {
		q.waiting, q.busy, q.credit = nil, false, 0
		return 0, false
	}
	return max(q.size-q.credit, 0), true
}

// release passes on what so many bytes more are enough for.
func (q *datagramQueue) release(bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.credit += bytes
	var batch []socks.Datagram
	for len(q.waiting) > 0 && len(q.waiting[0].Payload) <= q.credit {
		d := q.take()
		q.part.bandwidth.delay.Observe(time.Since(d.since))
		q.credit -= len(d.Payload)
		batch = append(batch, d.Datagram)
	}
	if len(batch) > 0 && !q.part.holds() {
		q.pass(batch)
	}
}

// take gives the first. The caller holds mu.
func (q *datagramQueue) take() waitingDatagram {
	d := q.waiting[0]
	q.waiting[0] = waitingDatagram{}
	q.waiting = q.waiting[1:]
	q.size -= len(d.Payload)
	q.begun = false
	return d
}

// end waits until the queue passes nothing on any more. The flow must have ended.
func (q *datagramQueue) end() {
	q.close()
	q.draining.Wait()
}

// close forgets what waits, and takes no more to wait.
func (q *datagramQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.waiting, q.size, q.begun = nil, 0, false
}
