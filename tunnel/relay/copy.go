package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
func Copy(ctx context.Context, a, b Conn) (r Result) {
	var over sync.WaitGroup
	over.Add(1)
	c := newCopying(a, b, func(end Result) {
		r = end
		over.Done()
	})
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
		defer stop()
	}
	c.run(false)
	over.Wait()
	return r
}

// Start is Copy for who does not wait for the end: over is called then, once and in whatever
// goroutine. Start relays itself as long as there is much to do, and leaves what is idle to as
// few goroutines, with as little on their stacks, as can be. Nothing but the two conns ends it;
// deadlines of reads are its own.
func Start(a, b Conn, over func(Result)) { newCopying(a, b, over).run(true) }

// copying is what the two directions of a [Copy] share.
type copying struct {
	a, b     end
	up, down direction
	open     atomic.Int32          // directions that have not ended, and goroutines
	err      atomic.Pointer[error] // what broke the connection
	resets   sync.WaitGroup        // done when both ends have been reset
	over     func(Result)
}

func newCopying(a, b Conn, over func(Result)) *copying {
	c := &copying{over: over}
	c.a.init(a)
	c.b.init(b)
	c.up.between(c, &c.b, &c.a)
	c.down.between(c, &c.a, &c.b)
	c.open.Store(2)
	c.resets.Add(1)
	return c
}

// run runs both directions, one of them here, and not in a goroutine of its own. It returns when that
// has ended or, if it may part with it, has nothing to do for a while.
func (c *copying) run(parts bool) {
	other, own := &c.up, &c.down
	if own.from.tells != nil {
		other, own = own, other
	}
	if parts && (own.from.tells != nil || own.from.raw != nil) {
		own.from.again = own.start
	}
	if other.from.tells != nil {
		other.from.again = other.start
	}
	if !other.from.silent() {
		other.start()
	}
	own.run()
}

// left notes that a direction or a goroutine has ended. After the last nothing moves any more.
func (c *copying) left() {
	if c.open.Add(-1) > 0 {
		return
	}
	r := Result{Up: c.up.n, Down: c.down.n}
	if p := c.err.Load(); p != nil {
		r.Err = *p
		c.resets.Wait() // a Close that is faster would be a clean end
	}
	// Both conns have sent and received their ends, or have been reset, so there
	// is nothing that these could lose.
	c.a.Close()
	c.b.Close()
	c.over(r)
}

// fail resets both ends and keeps the first reason.
func (c *copying) fail(err error) {
	if c.err.CompareAndSwap(nil, &err) {
		c.a.settle()
		c.b.settle()
		Fail(c.a.Conn, err)
		Fail(c.b.Conn, err)
		c.resets.Done()
	}
}

// direction carries from src to dst until src ends or dst takes no more.
type direction struct {
	*copying
	dst, src *end
	from     reader // of src
	n        int64  // bytes so far
}

func (d *direction) between(c *copying, dst, src *end) {
	d.copying, d.dst, d.src = c, dst, src
	d.from.read(src)
	if d.from.tells == nil || src.pacer != nil || dst.pacer != nil && dst.opener == nil {
		return
	}
	dst.watch, _ = dst.Conn.(watched)
	if dst.raw = newRawWriter(dst.Conn); dst.raw != nil {
		d.from.take = d.take // what the kernel takes at once needs no goroutine
	}
}

// start begins the direction, or goes on with it, in a goroutine.
func (d *direction) start() {
	d.open.Add(1)
	go func() {
		defer d.left()
		d.from.await()
		d.run()
	}()
}

// take passes on what it can of b at once, for a source that offers it in a goroutine of its own.
func (d *direction) take(b []byte) int {
	n := d.dst.take(b)
	if n > 0 {
		d.n += int64(n)
		d.src.goesOn()
	}
	return n
}

// run goes on until the direction is over, or its source has nothing for now and again is called
// when that changes: meanwhile nobody needs a goroutine, or a smaller one will do.
func (d *direction) run() {
	for {
		p, err := d.from.next()
		if errors.Is(err, errSilent) {
			return // and touches nothing any more
		}
		if d.pass(p) && !d.ends(err) {
			continue
		}
		d.from.release()
		d.src.drained(d.copying)
		d.left()
		return
	}
}

// pass writes p in turn, and tells whether dst has taken it.
func (d *direction) pass(p []byte) bool {
	if err := d.dst.takeErr; err != nil {
		d.dst.refuses(d.copying, fmt.Errorf("write: %w", err))
		return false
	}
	for len(p) > 0 {
		k, err := pace(d.dst, d.src, len(p))
		if err != nil {
			d.fail(err)
			return false
		}
		if err := d.dst.write(p[:k]); err != nil {
			d.dst.refuses(d.copying, fmt.Errorf("write: %w", err))
			return false
		}
		p = p[k:]
		d.n += int64(k)
		if d.src.follower != nil {
			d.src.follower.Passed()
		}
		d.src.goesOn()
	}
	return true
}

// ends tells whether err is the end of src, and passes it on.
func (d *direction) ends(err error) bool {
	switch {
	case err == nil:
		return false
	case !errors.Is(err, io.EOF):
		d.fail(fmt.Errorf("read: %w", err))
	case d.src.wasReset():
		d.fail(fmt.Errorf("read: %w", errReset))
	case d.dst.endsWithClose() && !d.src.refusing():
	default:
		if err := d.dst.CloseWrite(); err != nil {
			d.dst.refuses(d.copying, fmt.Errorf("end: %w", err))
		}
	}
	return true
}

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
