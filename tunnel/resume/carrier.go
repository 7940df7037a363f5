package resume

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Why a carrier is refused or lost, where its conn does not say it.
var (
	ErrStale    = errors.New("a later carrier is there already")
	ErrReplaced = errors.New("another carrier takes over")
	ErrSilent   = errors.New("the peer has been silent for too long")
)

// Carrier is a conn that carries a pipe, from Attach until it is lost. Its methods
// are safe for concurrent use; Serve must be called once.
type Carrier struct {
	Gap    time.Duration // how long the pipe had no carrier before
	Replay int64         // bytes that have to be sent again

	pipe *Pipe
	conn net.Conn
	gone chan struct{} // closed when the carrier is lost
	why  error         // and why; set before

	wake chan struct{} // Serve has something to send

	// Under the pipe's mu.
	next     int    // number of the record to send next
	acked    uint64 // what the peer has been told of the pipe's received
	ackDue   bool   // tell it now
	ackBy    time.Time
	turn     bool // datagrams went out last: it is data's turn
	closing  bool // the last frame is out
	closed   bool // the peer's last frame has come
	pong     uint64
	pongDue  bool
	ping     uint64
	pingDue  bool
	pinged   time.Time     // when the last ping went out
	pingOpen bool          // it has not been answered
	sentTo   uint64        // offset up to which this carrier has sent
	pingTo   uint64        // and had when the last ping went out
	owedTo   uint64        // and had when the ping went out that was answered last
	dunned   time.Time     // when that was looked at last
	owed     int           // answers in a row without that having been acknowledged
	least    time.Duration // the shortest round trip of this carrier; 0 before the first
	pingBy   time.Time     // send one then if none is out; zero if that can wait

	heard   time.Time // when anything came last
	asked   time.Time // since when there is something to answer
	asking  bool
	suspect bool
	timer   *time.Timer
	look    time.Time // when timer fires; zero if it does not
	began   time.Time
	start   uint64 // bytes that the pipe had moved, both ways, when it began
	rate    meter
	yield   yield
	scratch [3 * smallFrame]byte

	native DatagramConn // conn; nil if it takes only bytes
	eager  EagerConn    // conn; nil if writing to it may have to wait
	left   bool         // a writer has left something in it to be sent, and counts as sending until then

	in input // of Read
}

// input is what Read knows of the carrier. Only Read touches it.
type input struct {
	*bufio.Reader
	conn     PatientConn // what it reads; nil if that cannot wait for many bytes at once
	left     int         // payload of the current frame that has not been read
	skip     int         // and how much of that is known already
	datagram []byte      // room for the payload, if it is a datagram's
	told     time.Time   // when the peer was told of that last, or it began
	partial  bool        // the last read has brought bytes that Read does not give
}

// inputSize is the read buffer of a carrier. Payload beyond it is read past it.
const inputSize = 512

// Judge tells whether a carrier of this epoch could be attached for a peer that
// waits for offset, without doing so, and gives what this end waits for. The
// error is [ErrStale], a [Breach] if the peer cannot be at that offset, or why the
// pipe is over.
func (p *Pipe) Judge(epoch, offset uint64) (received uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.received, p.judge(epoch, offset)
}

func (p *Pipe) judge(epoch, offset uint64) error {
	switch {
	case p.err != nil:
		return p.err
	case epoch <= p.epoch:
		return ErrStale
	case offset > p.out.sent:
		return Breach{"it waits for bytes beyond those that it was sent"}
	}
	return nil
}

// Attach makes conn the pipe's carrier, in place of the one before. The peer
// waits for offset. A pipe takes carriers of rising epochs only; the errors are those
// of [Pipe.Judge], and the live carrier is not touched then. The carrier works from
// now on; its Serve must be called, and closes conn.
//
// conn's methods must be safe for concurrent use, and a deadline in the past must
// end a Read and a Write that wait.
func (p *Pipe) Attach(conn net.Conn, epoch, offset uint64) (*Carrier, error) {
	now := time.Now()
	c := &Carrier{
		pipe:  p,
		conn:  conn,
		gone:  make(chan struct{}),
		wake:  make(chan struct{}, 1),
		began: now, heard: now,
		pingDue: true,
		in:      input{Reader: bufio.NewReaderSize(conn, inputSize)},
	}
	c.native, _ = conn.(DatagramConn)
	c.eager, _ = conn.(EagerConn)
	c.in.conn, _ = conn.(PatientConn)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.judge(epoch, offset); err != nil {
		return nil, err
	}
	// The old carrier is fenced first: from here on nothing that it brings counts.
	p.epoch = epoch
	if p.carrier != nil {
		p.lose(p.carrier, ErrReplaced)
	}
	for p.sending { // a record may go to one carrier at a time
		p.moved.Wait()
	}
	if p.err != nil || p.epoch != epoch {
		if p.err == nil {
			return nil, ErrStale // another one was faster
		}
		return nil, p.err
	}
	p.install(c, offset, now)
	return c, nil
}

// install makes c the carrier. The caller holds mu.
func (p *Pipe) install(c *Carrier, offset uint64, now time.Time) {
	if p.attached {
		p.resumes++
		c.Gap = now.Sub(p.since)
		c.Replay = int64(p.out.sent - max(offset, p.out.acked))
		p.replayed += c.Replay
	}
	p.acknowledge(offset)
	c.next = p.out.locate(offset)
	c.rate.restart(now, p.out.acked)
	c.yield.meter.restart(now, p.out.acked)
	c.yield.turned = now
	c.start = p.received + p.out.acked
	c.acked, c.ackDue = p.received, true // the attach may have told an older offset
	p.attached, p.carrier, p.since = true, c, now
	p.rest()
	c.timer = time.AfterFunc(p.cfg.Idle, func() { p.tick(c) })
	c.look = now.Add(p.cfg.Idle)
	c.prompt()
	p.moved.Broadcast()
	p.tell()
}

// Serve runs the carrier until it is lost or ctx ends, closes its conn and
// says why it was lost.
func (c *Carrier) Serve(ctx context.Context) error {
	p := c.pipe
	stop := context.AfterFunc(ctx, func() { p.drop(c, context.Cause(ctx)) })
	defer stop()
	var receiving sync.WaitGroup
	defer receiving.Wait()
	if c.native != nil {
		receiving.Go(c.receiveNative)
	}
	for {
		select {
		case <-c.wake:
			p.mu.Lock()
			p.finishLeft(c)
			p.flush(c, true, true)
			p.mu.Unlock()
			continue
		case <-c.gone:
			p.mu.Lock()
			p.finishLeft(c)
			p.mu.Unlock()
		}
		break
	}
	c.farewell()
	c.conn.Close()
	return c.why
}

// farewell waits until the peer has closed a carrier on which the last frame
// went out, or has sent its own: closing first could make it lose what it has not
// read yet.
func (c *Carrier) farewell() {
	p := c.pipe
	p.mu.Lock()
	for c.closing && p.reading { // not for long: the pipe is over
		p.moved.Wait()
	}
	polite := c.closing && !c.closed
	p.mu.Unlock()
	if !polite {
		return
	}
	c.conn.SetReadDeadline(time.Now().Add(closeLimit))
	c.in.skipToClose()
}

// Drop gives the carrier up, as if it had failed.
func (c *Carrier) Drop(why error) { c.pipe.drop(c, why) }

func (p *Pipe) drop(c *Carrier, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose(c, why)
}

var past = time.Unix(1, 0)

// lose makes c no carrier any more. The caller holds mu.
func (p *Pipe) lose(c *Carrier, why error) {
	if p.carrier != c {
		return
	}
	p.carrier, p.lost = nil, why
	c.why = why
	close(c.gone)
	c.timer.Stop()
	c.conn.SetDeadline(past) // ends what waits for it
	p.outbound.drop()
	p.inbound.abandon()
	p.moved.Broadcast()
	if p.err != nil {
		p.release()
		return
	}
	now := time.Now()
	p.since = now
	p.learn(c, why)
	if why == ErrReplaced {
		return // Attach goes on
	}
	if why == ErrSilent {
		p.since = c.heard // nothing has worked since then
	}
	p.wait(p.since)
	p.tell()
}

// hush ends a Read that waits, and bounds what is still to be written.
func (c *Carrier) hush() {
	c.conn.SetReadDeadline(past)
	c.conn.SetWriteDeadline(time.Now().Add(closeLimit))
}

// prompt lets Serve look whether there is something to send.
func (c *Carrier) prompt() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
