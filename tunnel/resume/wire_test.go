package resume_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// fault is what happens to one direction of a wire at a certain byte.
type fault int

const (
	none    fault = iota
	reset         // both ends fail, and what is under way is lost
	broken        // both ends fail, after what is under way
	ended         // the reader sees an end; the other direction goes on
	still         // nothing moves any more, and writers wait
	swallow       // what is written vanishes: it fits the sender's buffers, and the path is dead
	faults
)

// lane says how one direction of a wire behaves.
type lane struct {
	room  int           // bytes that may be under way
	chunk int           // how many bytes a Read gives at most; 0 is without limit
	delay time.Duration // one way
	fault fault
	at    int // after so many bytes
}

// wire is a connection in memory that does what a schedule says, for virtual time.
// Deliberately bad manners, which a conn may have: once the deadline for reading has
// passed, it gives what was under way once more, with every bit turned, so
// that nobody can take it for good.
type wire struct {
	complain func(format string, args ...any)

	mu     sync.Mutex
	moved  sync.Cond
	cut    bool
	closed [2]bool
	dirs   [2]direction // by who writes
}

type direction struct {
	lane
	passed  int // bytes that have been written
	buf     []byte
	arrived int    // how many of them have arrived; if there is a delay
	due     []mark // and when the others will
	haunted bool   // bytes have been given after the deadline
	last    []byte // what a test wants to be given then
	shut    bool   // the writer has closed, or the reader
	readBy  time.Time
	writeBy time.Time
}

// mark says when the bytes up to an offset arrive.
type mark struct {
	at  time.Time
	end int
}

var errCut = errors.New("the wire was cut")

func newWire(up, down lane, complain func(string, ...any)) *wire {
	w := &wire{complain: complain}
	w.moved.L = &w.mu
	w.dirs[0].lane, w.dirs[1].lane = up, down
	return w
}

// strike makes a fault happen now.
func (w *wire) strike(side int, f fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hit(&w.dirs[side], f)
}

func (w *wire) hit(d *direction, f fault) {
	if d.fault == swallow && d.dead() && (f == still || f == swallow) {
		return // what has vanished leaves a gap: nothing may follow
	}
	switch d.fault = none; f {
	case reset:
		w.cut = true
		w.dirs[0].buf, w.dirs[1].buf = nil, nil
	case broken:
		w.cut = true
	case ended:
		d.shut = true
	default:
		d.fault = f
		d.at = d.passed
	}
	w.moved.Broadcast()
}

// works tells whether nothing is wrong with it, and nothing will be.
func (w *wire) works() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.cut && !w.dirs[0].shut && !w.dirs[1].shut && w.dirs[0].fault+w.dirs[1].fault == none
}

// wireEnd is one end of a wire, a net.Conn.
type wireEnd struct {
	*wire
	side int
}

func (e wireEnd) Write(p []byte) (n int, err error) { return e.write(p, true) }

// eagerEnd is a wireEnd that can be written to without waiting.
type eagerEnd struct {
	wireEnd
	left *[]byte // of what was written last; whoever writes does it alone
}

func (e eagerEnd) Write(p []byte) (int, error) {
	if len(*e.left) > 0 {
		e.complain("something is written before what is left")
	}
	return e.wireEnd.Write(p)
}

func (e eagerEnd) WriteNow(p, more []byte) (left bool, err error) {
	if len(*e.left) > 0 {
		e.complain("something is written before what is left")
	}
	was := bytes.Clone(more)
	n, err := e.write(p, false)
	if n < len(p) || err != nil {
		*e.left = append(bytes.Clone(p[n:]), more...)
		return true, err
	}
	if !bytes.Equal(more, was) {
		e.complain("what a carrier is about to write has changed meanwhile")
	}
	n, err = e.write(more, false)
	*e.left = bytes.Clone(more[n:])
	return len(*e.left) > 0, err
}

func (e eagerEnd) Flush() error {
	n, err := e.write(*e.left, true)
	*e.left = (*e.left)[n:]
	return err
}

func (e wireEnd) write(p []byte, wait bool) (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := &e.dirs[e.side]
	was := bytes.Clone(p)
	defer func() {
		if !bytes.Equal(p, was) {
			e.complain("what a carrier was writing has changed meanwhile")
		}
	}()
	for n < len(p) {
		hit := d.fault != none && d.passed >= d.at
		switch {
		case e.cut:
			return n, errCut
		case d.shut || e.closed[e.side]:
			return n, io.ErrClosedPipe
		case over(d.writeBy):
			return n, os.ErrDeadlineExceeded
		case hit && d.fault == swallow:
			return len(p), nil
		case hit && d.fault != still:
			e.hit(d, d.fault)
			continue
		case len(d.buf) >= d.room && !wait:
			return n, nil
		case len(d.buf) >= d.room:
			e.moved.Wait()
			continue
		}
		k := min(len(p)-n, d.room-len(d.buf))
		if d.fault != none && !hit {
			k = min(k, d.at-d.passed)
		}
		e.put(d, p[n:n+k])
		n += k
	}
	return n, nil
}

func (w *wire) put(d *direction, p []byte) {
	d.buf = append(d.buf, p...)
	d.passed += len(p)
	if d.delay > 0 {
		d.due = append(d.due, mark{time.Now().Add(d.delay), d.passed})
		time.AfterFunc(d.delay, w.moved.Broadcast)
	}
	w.moved.Broadcast()
}

// ready tells how many bytes can be read.
func (d *direction) ready() int {
	arrived := d.passed
	if d.delay > 0 {
		for len(d.due) > 0 && over(d.due[0].at) {
			d.arrived, d.due = d.due[0].end, d.due[1:]
		}
		arrived = d.arrived
	}
	if d.fault == still {
		arrived = min(arrived, d.at)
	}
	return max(len(d.buf)-(d.passed-arrived), 0)
}

func (e wireEnd) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := &e.dirs[1-e.side]
	for {
		n := min(d.ready(), len(p))
		if d.chunk > 0 {
			n = min(n, d.chunk)
		}
		switch late := over(d.readBy); {
		case late && d.last != nil:
			n := copy(p, d.last)
			if d.last = d.last[n:]; len(d.last) == 0 {
				d.last = nil
			}
			return n, nil
		case late && n > 0 && !d.haunted:
			d.haunted = true
			for i, b := range d.take(n) {
				p[i] = ^b
			}
			return n, nil
		case late:
			return 0, os.ErrDeadlineExceeded
		case n > 0:
			copy(p, d.take(n))
			e.moved.Broadcast()
			return n, nil
		case e.cut:
			return 0, errCut
		case e.closed[e.side]:
			return 0, net.ErrClosed
		case d.shut && len(d.buf) == 0 && !d.dead():
			return 0, io.EOF
		}
		e.moved.Wait()
	}
}

func (d *direction) take(n int) []byte {
	b := d.buf[:n]
	if d.buf = d.buf[n:]; len(d.buf) == 0 {
		d.buf = nil
	}
	return b
}

// dead tells whether nothing that is sent arrives any more, not even an end.
func (d *direction) dead() bool {
	return (d.fault == still || d.fault == swallow) && d.passed >= d.at
}

// Close lets the other end read what is under way, and then an end.
func (e wireEnd) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	out, in := &e.dirs[e.side], &e.dirs[1-e.side]
	e.closed[e.side] = true
	out.shut = true
	if !out.dead() {
		in.shut = true
	}
	e.moved.Broadcast()
	return nil
}

func (e wireEnd) SetDeadline(t time.Time) error {
	e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

func (e wireEnd) SetReadDeadline(t time.Time) error {
	return e.deadline(&e.dirs[1-e.side].readBy, t)
}

func (e wireEnd) SetWriteDeadline(t time.Time) error {
	return e.deadline(&e.dirs[e.side].writeBy, t)
}

func (e wireEnd) deadline(which *time.Time, t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	*which = t
	if wait := time.Until(t); wait > 0 {
		time.AfterFunc(wait, e.moved.Broadcast)
	}
	e.moved.Broadcast()
	return nil
}

func (wireEnd) LocalAddr() net.Addr  { return nil }
func (wireEnd) RemoteAddr() net.Addr { return nil }

func over(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }
