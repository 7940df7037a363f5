package resume

import "time"

// Write puts b into the pipe. It waits while there is no carrier, while the
// carrier has not taken what was written before, and while the peer has not
// acknowledged enough. When it returns, b may still be under way, and is sent again if its
// carrier is lost.
func (p *Pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.catchUp()
	done := 0
	for done < len(b) {
		n := min(len(b)-done, maxData)
		if err := p.room(n); err != nil {
			return done, err
		}
		p.out.add(b[done : done+n])
		done += n
		p.flush(p.carrier, true, false)
	}
	return done, nil
}

// WriteBuffer is Write for a buffer of [NewBuffer], which it takes over: a full
// one needs no copying.
func (p *Pipe) WriteBuffer(b *[]byte) error {
	payload := (*b)[Headroom:]
	if !full(b) {
		_, err := p.Write(payload)
		FreeBuffer(b)
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.catchUp()
	if err := p.room(len(payload)); err != nil {
		FreeBuffer(b)
		return err
	}
	p.out.adopt(b)
	p.flush(p.carrier, true, false)
	return nil
}

// catchUp sends what TryWriteBuffer has left to be sent with what follows. The caller holds mu.
func (p *Pipe) catchUp() {
	if p.behind {
		p.flush(p.carrier, true, false)
	}
}

// full tells whether a buffer holds so much that it can be kept as it is.
func full(b *[]byte) bool {
	n := len(*b) - Headroom
	return cap(*b) == classes[len(classes)-1] && n <= maxData && classOf(n) == len(classes)-1
}

// room waits until n bytes may be added, and books their memory. The caller
// holds mu.
func (p *Pipe) room(n int) error {
	size := sizeOf(n)
	for tried := false; p.err == nil; {
		c := p.carrier
		switch {
		case c == nil || c.next < p.out.past() || c.left:
		case p.out.held+size > p.limit:
			c.rate.starved = true
		case p.yields(c, time.Now()):
		case p.book(size):
			return nil
		case !tried:
			tried = !p.evict()
			continue // mu was let go of: everything must be looked at again
		}
		p.moved.Wait()
		tried = false
	}
	return p.err
}

// book takes memory from the shared bound.
func (p *Pipe) book(size int) bool {
	m := p.cfg.Memory
	return m == nil || m.take(size, p.out.held == 0)
}

// evict makes room in the shared memory, if a detached pipe can be given up.
// The caller holds mu, which is let go of meanwhile.
func (p *Pipe) evict() bool {
	p.mu.Unlock()
	defer p.mu.Lock()
	return p.cfg.Memory.evict()
}

// flush writes to c until there is nothing to send or c is lost. If it may not wait it
// leaves what c does not take at once to Serve, and if not all is
// asked for, so it does with what has no end when the data is out. If somebody else
// writes already, it leaves everything to them. The caller holds mu.
func (p *Pipe) flush(c *Carrier, wait, all bool) {
	p.behind = false // whoever sends, or the next carrier, sends that, too
	if p.sending || c == nil {
		return
	}
	p.sending = true
	for p.carrier == c {
		if !all && c.next == p.out.past() {
			if p.due(c) {
				c.prompt()
			}
			break
		}
		now := time.Now()
		batch := p.gather(c, now)
		if batch == nil {
			break
		}
		var more []byte
		if !wait && p.out.busy != nil {
			more = p.second(c, len(batch), now)
		}
		if p.write(c, batch, more, wait) {
			c.left = true
			c.prompt()
			return // still sending
		}
	}
	p.sending = false
	p.moved.Broadcast()
}

// due tells whether there is anything but data to send.
func (p *Pipe) due(c *Carrier) bool {
	return c.pingDue || c.pongDue || c.ackDue || !p.outbound.empty() || p.err != nil
}

// gather gives the next bytes for c; nil if there are none. Data and datagrams
// take turns. The caller holds mu.
func (p *Pipe) gather(c *Carrier, now time.Time) []byte {
	data, datagrams := c.next < p.out.past() && !p.yields(c, now), !p.outbound.empty()
	if b := p.urgent(c, data, now); len(b) > 0 {
		return b
	}
	if datagrams && !(data && c.turn) {
		c.turn = true
		c.remind() // nobody acknowledges datagrams
		return p.outbound.give().buf
	}
	c.turn = false
	if !data {
		return p.lastFrame(c)
	}
	return p.data(c, now)
}

// second gives the next data for c if it may go out together with n bytes before it; nil if there is
// none. The caller holds mu.
func (p *Pipe) second(c *Carrier, n int, now time.Time) []byte {
	if c.eager == nil || c.next == p.out.past() || p.due(c) || p.yields(c, now) {
		return nil
	}
	if n+len(*p.out.record(c.next).frame) > pairSize {
		return nil
	}
	return p.data(c, now)
}

// data gives the next record for c. The caller holds mu.
func (p *Pipe) data(c *Carrier, now time.Time) []byte {
	rec := p.out.record(c.next)
	c.next++
	p.out.begin(rec)
	c.sentTo = rec.end()
	p.out.sent = max(p.out.sent, c.sentTo)
	c.ask(now)
	c.told(p.received)
	return rec.seal(p.out.acked, p.received)
}

// urgent gives the small frames that are due. An acknowledgement rides on data
// if there is any.
func (p *Pipe) urgent(c *Carrier, data bool, now time.Time) []byte {
	b := c.scratch[:0]
	if c.pongDue {
		c.pongDue = false
		b = appendValue(b, typePong, c.pong)
	}
	if !c.pingOpen && (c.pingDue || data && now.Sub(c.pinged) >= pingPeriod) {
		c.pingDue, c.pingOpen, c.pinged = false, true, now
		c.ping++
		c.pingTo = c.sentTo
		c.ask(now)
		b = appendValue(b, typePing, c.ping)
	}
	if c.ackDue && !data {
		c.told(p.received)
		b = appendValue(b, typeAck, p.received)
	}
	return b
}

// lastFrame gives the close frame of a pipe that is over, and after that ends
// its carrier.
func (p *Pipe) lastFrame(c *Carrier) []byte {
	switch {
	case p.err == nil:
		return nil
	case c.closing:
		p.lose(c, p.err)
		return nil
	}
	c.closing = true
	return appendValue(c.scratch[:0], typeClose, p.reason)
}

// told notes that the peer has been told what has been received.
func (c *Carrier) told(received uint64) {
	c.acked, c.ackDue, c.ackBy = received, false, time.Time{}
}

// acknowledge takes what the peer says that it has. The caller holds mu, and
// has made sure that it was sent.
func (p *Pipe) acknowledge(offset uint64) {
	p.give(p.out.acknowledge(offset))
	c := p.carrier
	if c == nil {
		return
	}
	c.next = max(c.next, p.out.first)
	if c.yield.acknowledged(time.Now(), p.out.acked); c.next < p.out.past() && !p.sending {
		c.prompt() // it may have waited for this
	}
	if want := c.rate.want(time.Now(), p.out.acked, c.least); want > p.limit {
		p.limit = min(want, maxReplay)
	}
	c.answered(p)
	p.moved.Broadcast()
}

// meter measures how fast a carrier delivers.
type meter struct {
	began   time.Time
	acked   uint64
	starved bool // the writer has waited for the replay buffer in this period
}

// meterPeriod is the shortest time to measure over.
const meterPeriod = 100 * time.Millisecond

func (m *meter) restart(now time.Time, acked uint64) { *m = meter{began: now, acked: acked} }

// want gives the size of replay buffer that the path could use, if a period is
// over in which it had too little: twice what is delivered in a round trip. It is the
// shortest one that counts, because what waits in the path's queues is no reason to
// put more there.
func (m *meter) want(now time.Time, acked uint64, trip time.Duration) int {
	took := now.Sub(m.began)
	if took < max(meterPeriod, trip) {
		return 0
	}
	size := 0
	if m.starved {
		size = int(2 * float64(acked-m.acked) * float64(trip) / float64(took))
	}
	m.restart(now, acked)
	return size
}
