package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
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
	c.endWith(ctx)
	c.run(false)
	over.Wait()
	return r
}

// Start is Copy for who does not wait for the end: over is called then, once and in whatever
// goroutine. Start relays itself as long as there is much to do, and leaves what is idle to as
// few goroutines, with as little on their stacks, as can be. Nothing but the two conns ends it;
// deadlines of reads are its own.
func Start(a, b Conn, over func(Result)) { newCopying(a, b, over).run(true) }

// StartUntil is a Start that the end of ctx ends as it does a Copy.
func StartUntil(ctx context.Context, a, b Conn, over func(Result)) {
	c := newCopying(a, b, over)
	c.endWith(ctx)
	c.run(true)
}

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

// endWith has the end of ctx break the connection. It is called before run.
func (c *copying) endWith(ctx context.Context) {
	if ctx.Done() == nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	over := c.over
	c.over = func(r Result) {
		stop()
		over(r)
	}
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
