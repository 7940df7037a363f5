// Package tunneltest has what tests of sessions need: a link in memory that
// can be slow, stand still and be cut, and a reader of vectors.
package tunneltest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Path says how a [Link] behaves in each direction. The zero Path is as fast
// as memory.
type Path struct {
	Delay time.Duration // one way
	Rate  int           // bytes per second; 0 is without limit
	Queue int           // bytes that may be under way; 0 means 256 KiB
}

// Link makes the two ends of a connection. The ends are ordinary conns with
// deadlines; they can be used with virtual time.
func Link(p Path) (*Conn, *Conn) {
	if p.Queue == 0 {
		p.Queue = 256 << 10
	}
	up, down := newLane(p), newLane(p)
	a := &Conn{in: down, out: up}
	b := &Conn{in: up, out: down}
	return a, b
}

// Conn is one end of a [Link]. Its methods are safe for concurrent use.
type Conn struct {
	in, out *lane
}

// ErrCut is what both ends see after Cut.
var ErrCut = errors.New("the link was cut")

// Cut breaks the link: what is under way is lost and both ends fail.
func (c *Conn) Cut() {
	c.in.end(ErrCut, true)
	c.out.end(ErrCut, true)
}

// Stall makes the link stand still, or go on. Writes block when its queue is
// full.
func (c *Conn) Stall(still bool) {
	c.in.stall(still)
	c.StallWrites(still)
}

// StallWrites is Stall for what this end writes alone.
func (c *Conn) StallWrites(still bool) { c.out.stall(still) }

// Read reads what has arrived.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write queues p; it blocks while the link's queue is full.
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close ends both directions. The other end reads what is under way, and then
// io.EOF.
func (c *Conn) Close() error {
	c.out.end(io.EOF, false)
	c.in.end(net.ErrClosed, true)
	return nil
}

// LocalAddr and RemoteAddr are the same for all links.
func (c *Conn) LocalAddr() net.Addr  { return addr{} }
func (c *Conn) RemoteAddr() net.Addr { return addr{} }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds Read.
func (c *Conn) SetReadDeadline(t time.Time) error { c.in.setDeadline(&c.in.readLimit, t); return nil }

// SetWriteDeadline bounds Write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeLimit, t)
	return nil
}

type addr struct{}

func (addr) Network() string { return "link" }
func (addr) String() string  { return "link" }

// lane is one direction: pieces in order, each with the time when it arrives.
type lane struct {
	path Path

	mu         sync.Mutex
	changed    *sync.Cond
	pieces     []piece
	queued     int
	free       time.Time // when the transmitter has sent all that is queued
	still      bool
	readErr    error // after the pieces
	writeErr   error
	readLimit  time.Time
	writeLimit time.Time
}

type piece struct {
	at   time.Time
	data []byte
}

func newLane(p Path) *lane {
	l := &lane{path: p}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// pause waits for a change, or until t if that is not zero. The caller holds mu.
func (l *lane) pause(t time.Time) {
	if !t.IsZero() {
		timer := time.AfterFunc(time.Until(t), func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.changed.Broadcast()
		})
		defer timer.Stop()
	}
	l.changed.Wait()
}

func (l *lane) write(p []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		switch {
		case l.writeErr != nil:
			return n, l.writeErr
		case passed(l.writeLimit):
			return n, os.ErrDeadlineExceeded
		case l.queued >= l.path.Queue:
			l.pause(l.writeLimit)
			continue
		}
		k := min(len(p), l.path.Queue-l.queued)
		l.send(p[:k])
		p, n = p[k:], n+k
	}
	return n, nil
}

func (l *lane) send(p []byte) {
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	if l.path.Rate > 0 {
		l.free = l.free.Add(time.Duration(len(p)) * time.Second / time.Duration(l.path.Rate))
	}
	l.pieces = append(l.pieces, piece{at: l.free.Add(l.path.Delay), data: append([]byte(nil), p...)})
	l.queued += len(p)
	l.changed.Broadcast()
}

func (l *lane) read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case passed(l.readLimit):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case len(l.pieces) == 0 && l.readErr != nil:
			return 0, l.readErr
		case len(l.pieces) == 0 || l.still:
			l.pause(l.readLimit)
			continue
		}
		first := &l.pieces[0]
		if !passed(first.at) {
			l.pause(earliest(first.at, l.readLimit))
			continue
		}
		n := copy(p, first.data)
		first.data = first.data[n:]
		if len(first.data) == 0 {
			l.pieces = l.pieces[1:]
		}
		l.queued -= n
		l.changed.Broadcast()
		return n, nil
	}
}

// end ends the lane; drop loses what is under way.
func (l *lane) end(err error, drop bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if drop {
		l.pieces, l.queued = nil, 0
		l.readErr = err
	}
	if l.readErr == nil {
		l.readErr = err
	}
	if l.writeErr == nil {
		l.writeErr = io.ErrClosedPipe
	}
	l.changed.Broadcast()
}

func (l *lane) stall(still bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.still = still
	l.changed.Broadcast()
}

func (l *lane) setDeadline(which *time.Time, t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*which = t
	l.changed.Broadcast()
}

func passed(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func earliest(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}
