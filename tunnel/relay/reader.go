package relay

import (
	"errors"
	"os"
	"sync"
	"time"
)

// teller is a source that tells when it has something, so that an idle one costs no
// goroutine.
type teller interface {
	// Await has f called, once and soon, when Read has something to give: bytes, the
	// end or an error. It gives false, and does not call f, if it has that already. f
	// does not wait.
	//
	// If take is not nil it is offered what comes meanwhile, in whatever goroutine it comes,
	// and tells how much it has taken; Read gives the rest, and f is called if there is any.
	// take does not wait either.
	Await(take func(b []byte) int, f func()) bool

	// Withdraw waits until take is not called any more: whoever was called by f calls it.
	Withdraw()
}

// waiter is a source that can wait for bytes, or for its end, without a
// buffer to read them into.
type waiter interface {
	WaitRead() error
}

// errSilent says that again will be called when there is something to read.
var errSilent = errors.New("nothing to read for now")

// reader reads from one conn and gives its buffer back whenever it has to
// wait, so that an idle connection costs no buffer.
type reader struct {
	src   Conn
	raw   *rawReader // nil if src is no plain socket
	tells teller     // nil if src does not tell
	wait  waiter     // nil if src cannot wait without a buffer
	watch watched    // nil if src does not ask
	first []byte     // what a prefix left to deliver before all else
	buf   *[]byte
	again func()             // called when there is something, in place of a wait; nil: wait
	take  func(b []byte) int // for tells; may be nil

	timed bool // src has a deadline, by which it is looked whether anything has moved
	moved bool // it has
	idle  bool // it had not
}

// read sets what is read.
func (r *reader) read(src *end) {
	r.src, r.first, r.raw = src.Conn, src.first, newRawReader(src.Conn)
	r.tells, _ = r.src.(teller)
	r.wait, _ = r.src.(waiter)
	r.watch, _ = r.src.(watched)
}

// silent tells whether there is nothing to read and again will be called.
func (r *reader) silent() bool {
	if r.tells == nil || r.again == nil || len(r.first) > 0 {
		return false
	}
	b := r.buf
	r.buf = nil // for whom again wakes
	if !r.tells.Await(r.take, r.again) {
		r.buf = b
		return false
	}
	buffers.put(&b)
	return true
}

// next gives the next bytes, which are valid until the next call. Bytes and an
// error may come together.
func (r *reader) next() ([]byte, error) {
	if r.tells != nil {
		r.tells.Withdraw()
	}
	if p := r.first; len(p) > 0 {
		r.first = nil
		return p, nil
	}
	if r.raw != nil {
		b, err := r.nextRaw()
		if len(b) > 0 && r.watch != nil {
			r.watch.DidRead(b)
		}
		return b, err
	}
	switch {
	case r.silent():
		return nil, errSilent
	case r.wait != nil && r.again == nil:
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

// idleAfter is when a wait for bytes has lasted so long that another goroutine takes it over: the
// stack of one that has passed on bytes has grown, and stays as it is while it waits.
const idleAfter = 100 * time.Millisecond

// nextRaw is next for a plain socket.
func (r *reader) nextRaw() ([]byte, error) {
	for {
		if r.again != nil && !r.timed {
			r.timed, r.moved = true, false
			r.src.SetReadDeadline(time.Now().Add(idleAfter)) // if it fails, so does what follows
		}
		b, err := r.raw.next(&r.buf)
		switch {
		case r.again == nil || !errors.Is(err, os.ErrDeadlineExceeded):
			r.moved = true
			return b, err
		case !r.moved:
			r.idle = true
			r.src.SetReadDeadline(time.Time{})
			r.again()
			return nil, errSilent
		}
		r.timed = false
	}
}

// await waits until what was idle has something to give.
func (r *reader) await() {
	if r.idle {
		r.raw.wait() // what is wrong shows when it is read
		r.idle, r.timed = false, false
	}
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
