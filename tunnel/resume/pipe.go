// Package resume makes one ordered byte pipe of one carrier after another.
//
// Whatever is written is kept until the peer has acknowledged it. When a carrier is
// lost, the next one goes on at the byte that the peer waits for: nothing is lost,
// nothing comes twice, and whoever uses the pipe notices only that it stands
// still for a while. Datagrams go beside the bytes, and are never sent again.
//
// Each end has a [Pipe]. Whoever has a conn to the peer, and has agreed with it
// on an epoch and both offsets, gives it to [Pipe.Attach] and serves the [Carrier] that
// comes back. The pipe finds out by itself when a carrier is dead, and [Pipe.State] tells. Finding
// another one is not done here, nor is authenticating it: whoever attaches a
// carrier has made sure that it is the same peer's. A pipe that gets none
// in time is over, for good.
//
// PROTOCOL.md in the package above says byte by byte what travels, in its sections
// 3 and 4.
package resume

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Config says how a pipe behaves. The zero value is useful.
type Config struct {
	// Grace is how long the pipe outlives its last carrier, from when that was lost,
	// or from when the peer was last heard if it was lost because of silence. 0: it ends
	// with it, and so does a pipe on which the peer has never been heard: it may not know of it.
	Grace time.Duration

	// Idle is how long the peer may be silent before it is asked whether it is
	// there. 0 means 20 s.
	Idle time.Duration

	// Memory bounds the replay buffers and datagrams of many pipes. nil means that this
	// one has its own bounds only.
	Memory *Memory
}

// Bounds of one pipe's replay buffer, in bytes. It begins with the first and
// grows up to the second if the path needs it to stay busy: twice the product of
// bandwidth and delay.
const (
	minReplay = 4 << 20
	maxReplay = 64 << 20
)

// Why a pipe is over.
var (
	ErrClosed  = errors.New("the pipe was closed")
	ErrGrace   = errors.New("no carrier came back in time")
	ErrEvicted = errors.New("detached while memory was needed for others")
)

// PeerClosed says that the peer has ended the pipe.
type PeerClosed struct{ Reason uint64 }

func (e PeerClosed) Error() string {
	switch e.Reason {
	case closedByPeer:
		return "the peer has closed the pipe"
	case closedByBreach:
		return "the peer has closed the pipe: this end broke the protocol"
	case closedByTimeout:
		return "the peer has given the pipe up"
	}
	return fmt.Sprintf("the peer has closed the pipe: reason %d", e.Reason)
}

// Breach says what a peer did that no honest peer does. The pipe ends with it.
type Breach struct{ What string }

func (e Breach) Error() string { return "the peer broke the protocol: " + e.What }

// Pipe is one end of a pipe. Read may be called from one goroutine at a time, and
// so may ReceiveDatagrams, and so may Write, WriteBuffer and TryWriteBuffer together; the other
// methods are safe for concurrent use.
type Pipe struct {
	cfg     Config
	born    time.Time
	chat    atomic.Int64  // when somebody has chatted last, in nanoseconds since born; 0: never
	over    chan struct{} // closed when err is set
	arrived chan struct{} // there may be something in inbound

	mu      sync.Mutex
	moved   sync.Cond // something that somebody waits for may have happened
	err     error     // why the pipe is over
	reason  uint64    // what the peer is told about it
	carrier *Carrier  // nil while detached
	changed chan struct{}

	epoch    uint64 // of the last carrier
	attached bool   // there has been a carrier
	met      bool   // the peer has been heard
	since    time.Time
	lost     error // why the last carrier was lost
	parked   *list.Element
	expiry   *time.Timer
	grace    time.Duration

	out     replay
	limit   int  // bytes that out may hold
	sending bool // somebody writes to the carrier
	reading bool // Read waits for the carrier
	behind  bool // there is something to send, and whoever writes next does that

	received uint64 // offset of the next byte that Read gives

	turns turns // of others, while data moves

	outbound datagrams
	inbound  datagrams

	trip     time.Duration // the last round trip measured; survives its carrier
	silences int           // carriers in a row that were given up because of silence
	resumes  int
	replayed int64
}

// New gives a pipe without a carrier. It starts nothing, and no time runs
// before it has its first carrier.
func New(cfg Config) *Pipe {
	if cfg.Idle == 0 {
		cfg.Idle = 20 * time.Second
	}
	now := time.Now()
	p := &Pipe{
		cfg:     cfg,
		born:    now,
		over:    make(chan struct{}),
		arrived: make(chan struct{}, 1),
		changed: make(chan struct{}),
		grace:   cfg.Grace,
		limit:   minReplay,
		since:   now,
	}
	p.moved.L = &p.mu
	p.outbound.memory, p.inbound.memory = cfg.Memory, cfg.Memory
	return p
}

// Received gives the offset of the next byte that this end waits for: what the
// peer must be told when a carrier is attached.
func (p *Pipe) Received() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.received
}

// State is how a pipe is doing.
type State struct {
	Attached  bool          // there is a carrier
	Suspect   bool          // and it has been silent for too long already
	Since     time.Time     // when Attached became so; after silence, when the peer was last heard
	Lost      error         // why the last carrier was lost; nil if none was
	Epoch     uint64        // of the last carrier
	Resumes   int           // how often a carrier took over from another
	Replayed  int64         // bytes that were sent again, in all
	Held      int           // bytes of memory that the replay buffer and datagrams hold
	RoundTrip time.Duration // the last one measured; 0 if none
	Err       error         // why the pipe is over; nil while it is not
}

// State gives the state of this moment, and a channel that is closed when
// Attached, Suspect, Epoch or Err change.
func (p *Pipe) State() (State, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{
		Attached:  p.carrier != nil,
		Since:     p.since,
		Lost:      p.lost,
		Epoch:     p.epoch,
		Resumes:   p.resumes,
		Replayed:  p.replayed,
		Held:      p.out.held + p.outbound.held + p.inbound.held,
		RoundTrip: p.trip,
		Err:       p.err,
	}
	s.Suspect = p.carrier != nil && p.carrier.suspect
	return s, p.changed
}

// tell closes the channel that State has given. The caller holds mu.
func (p *Pipe) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Over is closed when the pipe is over.
func (p *Pipe) Over() <-chan struct{} { return p.over }

// SetGrace changes how long the pipe outlives its last carrier, from the next
// loss on.
func (p *Pipe) SetGrace(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grace = d
}

// Settle waits until the peer has acknowledged all that was written, the pipe is
// over, or ctx ends.
func (p *Pipe) Settle(ctx context.Context) error {
	wake := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.moved.Broadcast()
	}
	defer context.AfterFunc(ctx, wake)()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && ctx.Err() == nil && p.out.held > 0 {
		p.moved.Wait()
	}
	if p.err != nil {
		return p.err
	}
	return context.Cause(ctx)
}

// closeLimit is how long the last words of a pipe may take.
const closeLimit = time.Second

// Close ends the pipe. What has been written goes out first, and then the peer
// is told, if there is a carrier that takes it within a second; Close does not wait for
// that, the carrier's Serve does.
func (p *Pipe) Close() error {
	p.end(ErrClosed, closedByPeer)
	return nil
}

// end ends the pipe for a reason; the first one counts.
func (p *Pipe) end(err error, reason uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish(err, reason)
}

// finish is end for a caller who holds mu.
func (p *Pipe) finish(err error, reason uint64) {
	if p.err != nil {
		return
	}
	p.err, p.reason = err, reason
	close(p.over)
	p.rest()
	if c := p.carrier; c != nil {
		c.hush()
		c.prompt()
	} else {
		p.release()
	}
	p.moved.Broadcast()
	p.tell()
}

// release gives back what nobody can have any more.
func (p *Pipe) release() {
	p.give(p.out.clear())
	p.outbound.drop()
	p.inbound.settle()
}

func (p *Pipe) give(n int) {
	if n > 0 && p.cfg.Memory != nil {
		p.cfg.Memory.give(n)
	}
}

// evicted ends a detached pipe that holds memory, and tells whether it did.
func (p *Pipe) evicted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.carrier != nil || p.err != nil || p.out.held == 0 {
		return false
	}
	p.finish(ErrEvicted, closedByTimeout)
	return true
}

// wait lets the pipe expire when it has had no carrier since then for the
// length of its grace. The caller holds mu.
func (p *Pipe) wait(since time.Time) {
	if p.cfg.Memory != nil && p.parked == nil {
		p.parked = p.cfg.Memory.park(p)
	}
	left := p.grace - time.Since(since)
	if left <= 0 || !p.met {
		p.finish(ErrGrace, closedByTimeout)
		return
	}
	epoch := p.epoch
	p.expiry = time.AfterFunc(left, func() { p.expire(epoch) })
}

// rest is the opposite of wait.
func (p *Pipe) rest() {
	if p.parked != nil {
		p.cfg.Memory.unpark(p.parked)
		p.parked = nil
	}
	if p.expiry != nil {
		p.expiry.Stop()
		p.expiry = nil
	}
}

// expire ends a pipe to which no carrier has come since the one of epoch.
func (p *Pipe) expire(epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.carrier == nil && p.epoch == epoch {
		p.finish(ErrGrace, closedByTimeout)
	}
}
