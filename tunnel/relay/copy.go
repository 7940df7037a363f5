package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// bufferSize is how much one direction reads at a time, in bytes. A direction
// holds a buffer only while bytes move.
const bufferSize = 64 << 10

// Result says what a [Copy] carried.
type Result struct {
	Up   int64 // bytes from a to b
	Down int64 // bytes from b to a

	// Err is nil if both directions came to a clean end. Otherwise it says what
	// broke the connection, and both ends were reset.
	Err error
}

// Copy relays between a and b until both directions have ended, and then
// closes both. A clean end of one direction is passed on as such, and the other
// direction goes on for as long as it likes. Anything else, the end of ctx
// among it, resets both.
func Copy(ctx context.Context, a, b Conn) Result {
	c := copying{a: end{Conn: a}, b: end{Conn: b}}
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	defer stop()

	var r Result
	var down sync.WaitGroup
	down.Go(func() { r.Down = c.direction(&c.a, &c.b) })
	r.Up = c.direction(&c.b, &c.a)
	down.Wait()

	// Both conns have sent and received their ends, or have been reset, so there
	// is nothing that these could lose.
	a.Close()
	b.Close()
	if p := c.err.Load(); p != nil {
		r.Err = *p
	}
	return r
}

// copying is what the two directions of a [Copy] share.
type copying struct {
	a, b end
	err  atomic.Pointer[error] // what broke the connection
}

// end is one of the two conns.
type end struct {
	Conn
	ended atomic.Bool // nothing is written to it any more
}

// fail resets both ends and keeps the first reason.
func (c *copying) fail(err error) {
	if c.err.CompareAndSwap(nil, &err) {
		c.a.Reset()
		c.b.Reset()
	}
}

// direction carries from src to dst until src ends.
func (c *copying) direction(dst, src *end) (n int64) {
	r := newReader(src.Conn)
	defer r.release()
	for {
		p, err := r.next()
		if len(p) > 0 {
			if _, werr := dst.Write(p); werr != nil {
				c.fail(fmt.Errorf("write: %w", werr))
				return n
			}
			n += int64(len(p))
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			c.fail(fmt.Errorf("read: %w", err))
			return n
		case !src.ended.Load() && wasReset(src.Conn):
			c.fail(fmt.Errorf("read: %w", errReset))
			return n
		default:
			dst.ended.Store(true)
			if err := dst.CloseWrite(); err != nil {
				c.fail(fmt.Errorf("end: %w", err))
			}
			return n
		}
	}
}

var errReset = errors.New("connection reset by peer")

// buffers holds *[]byte of bufferSize bytes.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, bufferSize)
	return &b
}}

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
	first []byte     // what a prefix left to deliver before all else
	buf   *[]byte
}

func newReader(src Conn) *reader {
	r := &reader{src: src}
	if p, ok := src.(*prefixed); ok {
		r.first, r.src = p.take(), p.Conn
	}
	r.raw = newRawReader(r.src)
	r.wait, _ = r.src.(waiter)
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
		return r.raw.next(&r.buf)
	}
	if r.wait != nil {
		r.release()
		if err := r.wait.WaitRead(); err != nil {
			return nil, err
		}
	}
	if r.buf == nil {
		r.buf = buffers.Get().(*[]byte)
	}
	n, err := r.src.Read(*r.buf)
	return (*r.buf)[:n], err
}

func (r *reader) release() { putBuffer(&r.buf) }

func putBuffer(b **[]byte) {
	if *b != nil {
		buffers.Put(*b)
		*b = nil
	}
}

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
