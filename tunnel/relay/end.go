package relay

import (
	"errors"
	"sync"
	"syscall"
	"time"
)

// end is one of the two conns.
type end struct {
	Conn
	first []byte // what a prefix had left to read before all else
	pacer Pacer  // nil if bytes do not wait

	follower Follower // nil if the pacer is none
	opener   Opener   // nil if the pacer is none

	raw     *rawWriter // nil: nothing is written past Write
	watch   watched    // nil if raw is, or if it does not ask
	takeErr error      // why take has taken nothing

	taking   sync.Mutex // held while take is under way
	writing  sync.Mutex
	writeErr error // of the last Write

	mu      sync.Mutex
	refused error       // why nothing more can be written to it
	empty   bool        // nothing more can be read from it
	limit   *time.Timer // set while it is refused and not empty
}

func (e *end) init(c Conn) {
	e.Conn = c
	if p, ok := c.(*prefixed); ok {
		e.Conn, e.first = p.Conn, p.take()
	}
	if p, ok := e.Conn.(*paced); ok {
		e.Conn, e.pacer = p.Conn, p.pacer
		e.follower, _ = p.pacer.(Follower)
		e.opener, _ = p.pacer.(Opener)
	}
}

// take writes what the socket has room for, in whatever goroutine, while there is no write.
func (e *end) take(b []byte) (n int) {
	if e.opener != nil && !e.opener.Open() || e.watch != nil && !e.watch.WillNote() {
		return 0
	}
	e.taking.Lock()
	defer e.taking.Unlock()
	e.writing.Lock()
	defer e.writing.Unlock()
	n, e.writeErr = e.raw.write(b)
	e.takeErr = e.writeErr
	if e.watch != nil && n > 0 {
		e.watch.DidWrite(b[:n])
	}
	return n
}

// settle waits until what was taken has been noted, too.
func (e *end) settle() {
	e.taking.Lock()
	defer e.taking.Unlock()
}

func (e *end) write(p []byte) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	_, e.writeErr = e.Write(p)
	return e.writeErr
}

// wasReset tells an end of stream that is none. A socket's pending error can
// be had once: if the Write of the other direction has got the ECONNRESET, Read
// reports a clean end.
func (e *end) wasReset() bool {
	if e.writing.TryLock() {
		failed := e.writeErr != nil
		e.writing.Unlock()
		if !failed {
			return false // and no Write is under way that might have got it
		}
	}
	if !Gone(e.Conn) {
		return false
	}
	// A Write that is under way returns at once, so this does not wait. It fails
	// with EPIPE if the reset came after a clean end.
	e.writing.Lock()
	defer e.writing.Unlock()
	return e.writeErr != nil && !errors.Is(e.writeErr, syscall.EPIPE)
}

// refuses notes that nothing more can be written to e. That breaks the
// connection, but only after everything has been read that e had sent before.
func (e *end) refuses(c *copying, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refused = err
	if e.empty {
		c.fail(err)
		return
	}
	e.limit = time.AfterFunc(lastWords, func() { c.fail(err) })
}

// refusing tells whether nothing more can be written to e.
func (e *end) refusing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refused != nil
}

// goesOn notes that something of what e had sent has been passed on.
func (e *end) goesOn() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.limit != nil {
		e.limit.Reset(lastWords)
	}
}

// drained notes that nothing more can be read from e, or is of use to anybody.
func (e *end) drained(c *copying) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.empty = true
	if e.refused != nil {
		e.limit.Stop()
		c.fail(e.refused)
	}
}

// endsWithClose tells whether a Close that comes next ends e as CloseWrite does. A
// socket's does once nothing more can be read from it.
func (e *end) endsWithClose() bool {
	if _, ok := e.Conn.(tcpConn); !ok {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.empty
}

var errReset = errors.New("connection reset by peer")
