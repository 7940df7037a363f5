package tunnel

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// Bounds of the outbox, in bytes.
const (
	outboxTurn    = 2 * frameData             // payload that one stream may put in at a time
	outboxSize    = outboxTurn + 2*headerSize // what bulk data may wait in memory; more only adds latency
	outboxSmall   = 8 << 10                   // room on top of it that only small frames may take
	smallFrame    = 1500                      // what counts as small: interactive, or the head of a reply
	outboxControl = 512 << 10                 // control frames that a peer may owe us to read
)

// outboxDouble is how much payload a stream may put in at a time if nobody chats
// and the path is fast. With all that goes around it, TLS included, it is one packet of the
// loopback, or of what a kernel cuts into packets: 64 KiB and a bit more cost as much as two.
const outboxDouble = 64<<10 - 256

// outbox gathers what the session wants to send, so that the pipe sees few
// large writes instead of two per frame. Nobody who puts bytes in is ever blocked by
// that: senders of data reserve their room before, and may give up waiting for
// it. Control frames need no room, but a peer that lets them pile up is cut off.
type outbox struct {
	mu      sync.Mutex
	pending *[]byte   // put in and not yet given to the pipe, of resume.NewBuffer; nil if there is nothing
	data    int       // bytes of data frames: reserved, or in pending
	second  int       // how many of them are a stream's second turn, beyond outboxSize
	inFrame int       // how many bytes of pending are data
	total   uint64    // bytes that were ever put in
	waiters []*waiter // for room, first come first served
	err     error     // set once: nothing more can be sent
	writing bool      // the pipe has bytes that it has not taken yet
	pushing bool      // and push writes them, not run
	wake    chan struct{}
	drained chan struct{} // not nil while somebody waits in flush

	eased int // batches in a row that the pipe took without waiting

	pipe  *resume.Pipe // what push writes to; nil if only run can
	stuck *[]byte      // what push could not write without waiting: run writes it before all else

	crowd atomic.Bool // several streams chat: what they put in goes out together
}

type waiter struct {
	n     int           // payload that it has; once ready is closed, for how much of it there is room
	alone bool          // nobody chats, who would have to wait for more than a turn
	ready chan struct{} // closed when the room is reserved or the outbox has failed
}

func newOutbox(pipe io.Writer) *outbox {
	o := &outbox{wake: make(chan struct{}, 1)}
	o.pipe, _ = pipe.(*resume.Pipe)
	return o
}

var errControlFlood = errors.New("the peer does not read what it makes us send")

// run writes to the pipe until the outbox is closed or the pipe fails, and says
// why.
func (o *outbox) run(pipe io.Writer) error {
	for {
		batch, err := o.take()
		switch {
		case err != nil:
			return err
		case batch == nil:
			<-o.wake
			continue
		}
		if err := writeBatch(pipe, batch); err != nil {
			o.close(err)
			return err
		}
	}
}

// writeBatch writes a batch, which is the pipe's from then on.
func writeBatch(pipe io.Writer, batch *[]byte) error {
	if p, ok := pipe.(*resume.Pipe); ok {
		return p.WriteBuffer(batch)
	}
	_, err := pipe.Write((*batch)[resume.Headroom:])
	resume.FreeBuffer(batch)
	return err
}

// take gives all that is pending, or nil if there is nothing to do until the
// next wake.
func (o *outbox) take() (batch *[]byte, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, o.err
	}
	if o.pushing {
		return nil, nil // whoever does looks again
	}
	o.writing = o.stuck != nil || o.pending != nil
	if !o.writing {
		o.flushed()
		return nil, nil
	}
	if batch, o.stuck = o.stuck, nil; batch != nil {
		return batch, nil
	}
	batch = o.detach()
	o.admit()
	return batch, nil
}

// detach gives what is pending. The caller holds mu.
func (o *outbox) detach() *[]byte {
	batch := o.pending
	o.pending = nil
	o.free(o.inFrame)
	o.inFrame = 0
	return batch
}

// free gives back the room of n bytes of data frames. The caller holds mu.
func (o *outbox) free(n int) {
	o.data -= n
	if n > outboxSmall { // there is more than small frames: at least the first turn
		o.second = 0
	}
}

const (
	// pushes is how many batches one push writes. More are others' work.
	pushes = 2

	// gathers is how often one push lets others go first, who have something to say, too.
	gathers = 3

	// easeAfter is how many batches the pipe has to take one after the other without waiting before a
	// stream may put in two at a time.
	easeAfter = 4
)

// push writes what is pending in the goroutine of whoever has put it in, if nobody
// writes and that takes no waiting. All else it leaves to run: waking that for every
// batch costs more than the batch.
func (o *outbox) push() { o.give(false) }

// give is push. If more follows the caller puts that in and pushes it at once: both go out together.
func (o *outbox) give(more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || o.pending == nil {
		return // whoever writes looks again
	}
	if o.pipe == nil {
		o.signal()
		return
	}
	for range pushes {
		if o.pending == nil {
			break
		}
		o.writing, o.pushing = true, true
		if o.crowd.Load() {
			o.gather()
		}
		batch, ok := o.detach(), true
		if batch != nil { // else the outbox has failed meanwhile
			o.mu.Unlock()
			ok = o.pipe.TryWriteBuffer(batch, more)
			o.mu.Lock()
		}
		o.eased++
		o.writing, o.pushing = !ok, false
		o.admit() // now: others who put something in before would have it written by run
		if !ok {
			o.stuck, o.eased = batch, 0
			break
		}
	}
	switch {
	case o.stuck != nil || o.pending != nil:
		o.signal()
	case !more:
		o.flushed()
	}
}

// gather lets go first whoever is about to put something in, for as long as somebody does: a write
// for each costs more, here and where it is read. The caller holds mu, which is let go of meanwhile.
func (o *outbox) gather() {
	for range gathers {
		before := o.total
		o.mu.Unlock()
		runtime.Gosched()
		o.mu.Lock()
		if o.total == before {
			return
		}
	}
}

// reserve waits for room for n bytes of a stream's payload, or for the first of them, and tells for how
// many there is. If alone is set nobody chats, who would have to wait for more than a turn.
func (o *outbox) reserve(n int, alone bool, limit *deadline, dead *latch) (int, error) {
	o.mu.Lock()
	if o.err != nil {
		defer o.mu.Unlock()
		return 0, o.err
	}
	if len(o.waiters) == 0 || isSmall(n) {
		if k := o.grant(n, alone); k > 0 {
			o.mu.Unlock()
			return k, nil
		}
	}
	w := &waiter{n: n, alone: alone, ready: make(chan struct{})}
	o.waiters = append(o.waiters, w)
	o.mu.Unlock()

	var err error
	select {
	case <-w.ready:
		if err := o.failure(); err != nil {
			return 0, err
		}
		return w.n, nil
	case <-limit.wait():
		err = os.ErrDeadlineExceeded
	case <-dead.wait():
		err = errStreamDead
	}
	o.abandon(w)
	return 0, err
}

// idle tells whether nothing is pending and the pipe is likely to take at once what is put in.
func (o *outbox) idle() bool {
	return o.eased >= easeAfter && !o.writing && o.pending == nil && o.data == 0
}

// grant reserves room for n bytes of payload, or for the first of them, and tells for how many; 0 if
// there is none. The caller holds mu.
func (o *outbox) grant(n int, alone bool) int {
	room := outboxSize
	switch {
	case isSmall(n):
		room += o.second + outboxSmall // or else they would be the last in line while somebody has two turns
	case n > outboxTurn && alone && o.idle():
		room = dataSize(n)
		o.second = room - outboxSize
	default:
		n = min(n, outboxTurn)
	}
	if o.data+dataSize(n) > room {
		return 0
	}
	o.data += dataSize(n)
	return n
}

func isSmall(n int) bool { return dataSize(n) <= smallFrame }

// admit gives room to those who wait for it. The caller holds mu.
func (o *outbox) admit() {
	for len(o.waiters) > 0 {
		w := o.waiters[0]
		n := o.grant(w.n, w.alone)
		if n == 0 && o.err == nil {
			return
		}
		w.n = n
		o.waiters[0] = nil
		o.waiters = o.waiters[1:]
		close(w.ready)
	}
}

// abandon takes back what w has waited for, or has got meanwhile.
func (o *outbox) abandon(w *waiter) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, x := range o.waiters {
		if x == w {
			o.waiters = append(o.waiters[:i], o.waiters[i+1:]...)
			o.admit() // there may be room for who was behind it
			return
		}
	}
	o.free(dataSize(w.n))
	o.admit()
}

// dataSize is how many bytes the frames for n bytes of payload have.
func dataSize(n int) int {
	return n + (n+frameData-1)/frameData*headerSize
}

// putData appends payload of a stream, for which room has been reserved. The
// frames are those that yamux would write. It would hand each over to a
// goroutine and wait for that, which costs more than all the rest; its own window never
// binds, and it has sent SYN or ACK before.
func (o *outbox) putData(stream uint32, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), outboxTurn)
		if err := o.addData(stream, p[:n]); err != nil {
			return err
		}
		p = p[n:]
		o.give(len(p) > 0)
	}
	return nil
}

func (o *outbox) addData(stream uint32, p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	o.inFrame += dataSize(len(p))
	for len(p) > 0 {
		n := min(len(p), frameData)
		h := makeHeader(yamuxVersion, typeData, 0, stream, uint32(n))
		o.append(h[:])
		o.append(p[:n])
		p = p[n:]
	}
	return nil
}

// put appends a frame without payload. It goes out with the next push.
func (o *outbox) put(frame []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	o.append(frame)
	if len(*o.pending)-o.inFrame > outboxControl {
		o.fail(errControlFlood)
		return o.err
	}
	return nil
}

func (o *outbox) append(p []byte) {
	if o.pending == nil {
		o.pending = resume.NewBuffer()
	}
	*o.pending = append(*o.pending, p...)
	o.total += uint64(len(p))
}

// flush waits until all has been given to the pipe, for a limited time.
func (o *outbox) flush(limit time.Duration) {
	o.push()
	t := time.NewTimer(limit)
	defer t.Stop()
	o.mu.Lock()
	if o.err != nil || o.pending == nil && !o.writing {
		o.mu.Unlock()
		return
	}
	if o.drained == nil {
		o.drained = make(chan struct{})
	}
	drained := o.drained
	o.mu.Unlock()
	select {
	case <-drained:
	case <-t.C:
	}
}

// empty tells whether all that was put in has been taken out and written.
func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pending == nil && !o.writing
}

// flushed tells those who wait in flush. The caller holds mu.
func (o *outbox) flushed() {
	if o.drained != nil {
		close(o.drained)
		o.drained = nil
	}
}

// written is how many bytes were ever put in.
func (o *outbox) written() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.total
}

func (o *outbox) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// close fails everybody who waits or puts in from now on.
func (o *outbox) close(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail(err)
}

func (o *outbox) fail(err error) {
	if o.err != nil {
		return
	}
	o.err = err
	o.pending, o.stuck = nil, nil
	o.admit()
	o.flushed()
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}
