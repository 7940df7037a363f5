package tunnel

import (
	"sync"
	"time"
)

// deadline is a point in time that can be moved while others wait for it. The
// zero deadline never passes, and costs nothing.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	timer *time.Timer
	gone  chan struct{} // closed when it has passed; nil while nobody has asked
}

// set moves the deadline; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.gone != nil && isClosed(d.gone) {
		d.gone = nil // those who waited know; who asks from now on waits anew
	}
	d.at = t
	d.arm()
}

// wait gives a channel that is closed when the deadline passes, wherever it is
// moved meanwhile.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone == nil {
		d.gone = make(chan struct{})
		d.arm()
	}
	return d.gone
}

// waitIfSet is wait, or nil while there is no deadline: whoever waits is told of one in some
// other way.
func (d *deadline) waitIfSet() <-chan struct{} {
	d.mu.Lock()
	set := !d.at.IsZero()
	d.mu.Unlock()
	if !set {
		return nil
	}
	return d.wait()
}

// arm starts the clock if there is somebody to tell. The caller holds mu.
func (d *deadline) arm() {
	if d.gone == nil || d.at.IsZero() || isClosed(d.gone) {
		return
	}
	if left := time.Until(d.at); left > 0 {
		gone, at := d.gone, d.at
		d.timer = time.AfterFunc(left, func() { d.expire(gone, at) })
		return
	}
	close(d.gone)
}

func (d *deadline) expire(gone chan struct{}, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone == gone && d.at.Equal(at) && !isClosed(gone) {
		close(gone)
	}
}

// passed tells whether the deadline is over.
func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && !time.Now().Before(d.at)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
