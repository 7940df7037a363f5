package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Result says what a [Copy] carried.
type Result struct {
	Up   int64 // bytes from a to b
	Down int64 // bytes from b to a

	// Err is nil if both directions came to a clean end. Otherwise it says what
	// broke the connection, and both ends were reset.
	Err error
}

// lastWords bounds the pauses between the bytes of an end that takes none any
// more, while it goes on giving those that it had sent before.
const lastWords = 5 * time.Second

// Copy relays between a and b until both directions have ended, and then
// closes both. A clean end of one direction is passed on as such, and the other
// direction goes on for as long as it likes. Anything else, the end of ctx
// among it, resets both.
//
// What an end had sent before it was reset still goes to the other one, as it
// does without a relay, unless that takes nothing for 5 s.
func Copy(ctx context.Context, a, b Conn) Result {
	c := copying{a: newEnd(a), b: newEnd(b), reset: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	defer stop()

	var r Result
	var down sync.WaitGroup
	down.Go(func() { r.Down = c.direction(c.a, c.b) })
	r.Up = c.direction(c.b, c.a)
	down.Wait()

	if p := c.err.Load(); p != nil {
		r.Err = *p
		<-c.reset // a Close that is faster would be a clean end
	}
	// Both conns have sent and received their ends, or have been reset, so there
	// is nothing that these could lose.
	a.Close()
	b.Close()
	return r
}

// copying is what the two directions of a [Copy] share.
type copying struct {
	a, b  *end
	err   atomic.Pointer[error] // what broke the connection
	reset chan struct{}         // closed when both ends have been reset
}

// fail resets both ends and keeps the first reason.
func (c *copying) fail(err error) {
	if c.err.CompareAndSwap(nil, &err) {
		Fail(c.a.Conn, err)
		Fail(c.b.Conn, err)
		close(c.reset)
	}
}

// direction carries from src to dst until src ends or dst takes no more.
func (c *copying) direction(dst, src *end) (n int64) {
	defer src.drained(c)
	r := newReader(src)
	defer r.release()
	for {
		p, err := r.next()
		for len(p) > 0 {
			k, err := pace(dst, src, len(p))
			if err != nil {
				c.fail(err)
				return n
			}
			if err := dst.write(p[:k]); err != nil {
				dst.refuses(c, fmt.Errorf("write: %w", err))
				return n
			}
			p = p[k:]
			n += int64(k)
			if src.follower != nil {
				src.follower.Passed()
			}
			src.goesOn()
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			c.fail(fmt.Errorf("read: %w", err))
			return n
		case src.wasReset():
			c.fail(fmt.Errorf("read: %w", errReset))
			return n
		case dst.endsWithClose():
			return n
		default:
			if err := dst.CloseWrite(); err != nil {
				dst.refuses(c, fmt.Errorf("end: %w", err))
			}
			return n
		}
	}
}

// end is one of the two conns.
type end struct {
	Conn
	first []byte // what a prefix had left to read before all else
	pacer Pacer  // nil if bytes do not wait

	follower Follower // nil if the pacer is none

	writing  sync.Mutex
	writeErr error // of the last Write

	mu      sync.Mutex
	refused error       // why nothing more can be written to it
	empty   bool        // nothing more can be read from it
	limit   *time.Timer // set while it is refused and not empty
}

func newEnd(c Conn) *end {
	e := &end{Conn: c}
	if p, ok := c.(*prefixed); ok {
		e.Conn, e.first = p.Conn, p.take()
	}
	if p, ok := e.Conn.(*paced); ok {
		e.Conn, e.pacer = p.Conn, p.pacer
		e.follower, _ = p.pacer.(Follower)
	}
	return e
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

// endsWithClose tells whether the Close that comes next ends e as CloseWrite does. A
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

// waiter is a source that can wait for bytes, or for its end, without a
// buffer to read them into.
type waiter interface {
	WaitRead() error
}

// reader reads from one conn and gives its buffer back whenever it has to
// wait, so that an idle connection costs no buffer.
type reader struct {
	src   Conn
	raw   *rawReader // nil if src is no plain socket
	wait  waiter     // nil if src cannot wait without a buffer
	watch watched    // nil if src does not ask
	first []byte     // what a prefix left to deliver before all else
	buf   *[]byte
}

func newReader(src *end) *reader {
	r := &reader{src: src.Conn, first: src.first, raw: newRawReader(src.Conn)}
	r.wait, _ = r.src.(waiter)
	r.watch, _ = r.src.(watched)
	return r
}

// next gives the next bytes, which are valid until the next call. Bytes and an
// error may come together.
func (r *reader) next() ([]byte, error) {
	if p := r.first; len(p) > 0 {
		r.first = nil
		return p, nil
	}
	if r.raw != nil {
		b, err := r.raw.next(&r.buf)
		if len(b) > 0 && r.watch != nil {
			r.watch.DidRead(b)
		}
		return b, err
	}
	if r.wait != nil {
		r.release()
		if err := r.wait.WaitRead(); err != nil {
			return nil, err
		}
	}
	if r.buf == nil {
		r.buf = buffers.get()
	}
	n, err := r.src.Read(*r.buf)
	return (*r.buf)[:n], err
}

func (r *reader) release() { buffers.put(&r.buf) }

// WithPrefix gives a conn that reads as prefix and then whatever c has: for
// those who have read a little too far.
func WithPrefix(c Conn, prefix []byte) Conn {
	if len(prefix) == 0 {
		return c
	}
	return &prefixed{Conn: c, prefix: prefix}
}

type prefixed struct {
	Conn
	mu     sync.Mutex
	prefix []byte
}

func (p *prefixed) take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.prefix
	p.prefix = nil
	return b
}

func (p *prefixed) Read(b []byte) (int, error) {
	p.mu.Lock()
	n := copy(b, p.prefix)
	p.prefix = p.prefix[n:]
	p.mu.Unlock()
	if n > 0 || len(b) == 0 {
		return n, nil
	}
	return p.Conn.Read(b)
}
