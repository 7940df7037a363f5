package tunnel

import (
	"sync"
	"time"
)

// Bounds of flow control, in bytes. What a peer can make a session hold is at
// most sessionWindow, and minWindow for every stream on top of it.
const (
	minWindow     = 16 << 10  // what every stream may send before it has been granted anything
	firstWindow   = 256 << 10 // the most that a new stream is granted
	maxWindow     = 32 << 20  // 1 Gbit/s at 250 ms
	sessionWindow = 64 << 20
)

// catchUp is how long the reader of half a window may take for the window to become as wide as
// that of others. A stream that comes when those fill the path's queues finds it so long that
// it would never seem to need more.
const catchUp = time.Second

// budget is what the streams of one session have been granted together, on
// top of minWindow each.
type budget struct {
	mu      sync.Mutex
	used    int64
	streams int64
	widest  int64 // the largest window that a stream has needed
}

// join gives a new stream its first grant: a share of what is free, small when
// there are many streams already, so that a thousand of them whose readers
// stand still pin little.
func (b *budget) join() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams++
	grant := min((sessionWindow-b.used)/(4*b.streams), firstWindow-minWindow)
	if grant < minWindow {
		return 0
	}
	b.used += grant
	return grant
}

// grow adds to a stream's window of size window, by doubling it while that takes at most half of what
// is free. Unless it needs that, it gets no more than the widest has.
func (b *budget) grow(window int64, needs bool) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if needs {
		b.widest = max(b.widest, min(2*window, maxWindow))
	} else if 2*window > b.widest {
		return 0
	}
	more := min(window, maxWindow-window, (sessionWindow-b.used)/2)
	if more < minWindow {
		return 0
	}
	b.used += more
	return more
}

// leave takes back the window of a stream that is over.
func (b *budget) leave(window int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams--
	b.used -= window - minWindow
}

// shrink takes back what a sender has given back.
func (b *budget) shrink(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}

// recvWindow is the receiving half of a stream's flow control. A sender may be
// ahead of the reader by the window's size, which grows while it is what
// limits the stream: that is, while the reader takes half of it in less than two
// round trips. It grows to what others have needed for less.
type recvWindow struct {
	mu       sync.Mutex
	budget   *budget
	size     int64
	granted  int64     // absolute: the sender may send up to here
	received int64     // absolute: it has sent up to here
	consumed int64     // absolute: the reader has taken up to here
	last     time.Time // when the last grant was made
	left     bool
}

// open makes the first grant and gives what to tell the sender.
func (w *recvWindow) open(b *budget, now time.Time) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	more := b.join()
	w.budget, w.size, w.granted, w.last = b, minWindow+more, minWindow+more, now
	return more
}

// receive notes that n bytes have come, and tells whether they were granted.
func (w *recvWindow) receive(n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.received += n
	return w.received <= w.granted
}

// consume notes that the reader has taken n bytes, and gives what to grant to
// the sender now: 0 until it is worth a frame.
func (w *recvWindow) consume(n int64, now time.Time, rtt time.Duration) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.consumed += n
	due := w.consumed + w.size - w.granted
	if due < w.size/2 || w.left {
		return 0
	}
	took := now.Sub(w.last)
	needs := took < 2*rtt
	if needs || took < catchUp && w.received-w.consumed < w.size/4 {
		more := w.budget.grow(w.size, needs)
		w.size += more
		due += more
	}
	w.last = now
	w.granted += due
	return due
}

// release notes that the sender does without n bytes of its credit, and tells whether it
// had them.
func (w *recvWindow) release(n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > w.granted-w.received {
		return false
	}
	w.granted -= n
	less := min(n, w.size-minWindow)
	w.size -= less
	if !w.left {
		w.budget.shrink(less)
	}
	return true
}

// got gives how many bytes the sender has sent.
func (w *recvWindow) got() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.received
}

// unread tells whether there are bytes that the reader has not taken.
func (w *recvWindow) unread() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.received > w.consumed
}

// close ends the window: nobody reads any more.
func (w *recvWindow) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.left && w.budget != nil {
		w.left = true
		w.budget.leave(w.size)
	}
}

// sendCredit is the sending half: what the peer allows. It begins with a limit of minWindow.
type sendCredit struct {
	mu    sync.Mutex
	limit int64 // absolute
	sent  int64 // absolute
	swept int64 // sent at the last sweep
	more  signal
}

// take gives how much of n may be sent now, 0 if nothing.
func (c *sendCredit) take(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := min(int64(n), c.limit-c.sent)
	c.sent += got
	return int(got)
}

// giveBack returns what was taken and not sent.
func (c *sendCredit) giveBack(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent -= int64(n)
}

// maxCredit bounds what a peer may grant ahead, in bytes.
const maxCredit = 1 << 30

// add notes a grant, and tells whether it is believable.
func (c *sendCredit) add(n int64) bool {
	c.mu.Lock()
	c.limit += n
	ok := c.limit-c.sent <= maxCredit
	c.mu.Unlock()
	c.more.tell()
	return ok
}

// sweep gives how much credit to give back: what is above first, if nothing
// has been sent since the last sweep. idle tells whether there is nothing left
// to give back.
func (c *sendCredit) sweep() (back int64, idle bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	spare := c.limit - c.sent - firstWindow
	if spare <= 0 {
		return 0, c.sent == c.swept
	}
	if c.sent != c.swept {
		c.swept = c.sent
		return 0, false
	}
	c.limit -= spare
	return spare, true
}
