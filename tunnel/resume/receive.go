package resume

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// When to acknowledge: after so many bytes, or so much time. Data that goes
// the other way takes an acknowledgement with it.
const (
	ackBytes = 512 << 10
	ackDelay = 100 * time.Millisecond
)

// datagramSlow is how long a datagram may be on its way in before the peer is told
// that it moves. On a very slow path nothing else would show that the path is alive.
const datagramSlow = 500 * time.Millisecond

// Read gives the pipe's next bytes. It waits over the loss of any number of carriers,
// and fails only when the pipe is over. It must be called again soon: everything
// that the peer says comes with it, acknowledgements and signs of life, too.
func (p *Pipe) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		c, err := p.listen()
		if err != nil {
			return 0, err
		}
		n, err := c.in.read(p, c, b)
		n, err = p.take(c, n, err)
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// listen waits for a carrier.
func (p *Pipe) listen() (*Carrier, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && p.carrier == nil {
		p.moved.Wait()
	}
	if p.err != nil {
		return nil, p.err
	}
	p.reading = true
	return p.carrier, nil
}

// take books n bytes of data that c has brought. What a carrier brings after it
// was lost does not count: the next one brings it again.
func (p *Pipe) take(c *Carrier, n int, err error) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = false
	switch {
	case p.err != nil:
		p.moved.Broadcast() // for farewell
		return 0, p.err
	case p.carrier != c:
		p.moved.Broadcast()
		return 0, nil
	}
	if n > 0 || c.in.partial {
		p.received += uint64(n)
		now := time.Now()
		c.hear(now)
		switch {
		case c.in.datagram == nil:
			c.owe(p.received, now)
		case now.Sub(c.in.told) >= datagramSlow:
			c.in.told, c.ackDue = now, true
			c.prompt()
		}
	}
	if err != nil {
		p.fault(c, err)
		p.moved.Broadcast()
		if n == 0 {
			return 0, p.err
		}
	}
	return n, nil
}

// fault judges an error that came with c. The caller holds mu.
func (p *Pipe) fault(c *Carrier, err error) {
	switch err := err.(type) {
	case Breach:
		p.finish(err, closedByBreach)
	case PeerClosed:
		p.finish(err, closedByPeer)
		p.lose(c, err)
	default:
		p.lose(c, err)
	}
}

// owe notes that the peer has something to be told. The caller holds mu.
func (c *Carrier) owe(received uint64, now time.Time) {
	bytes, delay := uint64(ackBytes), ackDelay
	if c.pipe.chatting(now) {
		bytes, delay = chatAckBytes, chatAckDelay
	}
	switch {
	case received-c.acked >= bytes:
		if !c.ackDue {
			c.ackDue = true
			c.prompt()
		}
	case c.ackBy.IsZero():
		c.ackBy = now.Add(delay)
		c.lookAt(c.ackBy)
	}
}

// read reads payload into b. It deals with frames of other kinds until there
// is some; 0 and no error means that there was such a frame.
func (in *input) read(p *Pipe, c *Carrier, b []byte) (int, error) {
	if in.left == 0 {
		if err := in.frame(p, c); err != nil || in.left == 0 {
			return 0, err
		}
	}
	if in.datagram != nil {
		return 0, in.more(p, c)
	}
	if in.partial = in.skip > 0; in.partial {
		n, err := in.Discard(min(in.skip, max(in.Buffered(), 1)))
		in.skip -= n
		in.left -= n
		return 0, cut(err)
	}
	n, err := in.payload(b[:min(len(b), in.left)])
	in.left -= n
	return n, cut(err)
}

// payload reads into b, of which there is at least as much to come. What came
// along with the header would be a small piece of it, so it reads once more.
func (in *input) payload(b []byte) (int, error) {
	n := 0
	if in.Buffered() > 0 {
		n, _ = in.Reader.Read(b) // cannot fail: it is there
	}
	if n == len(b) {
		return n, nil
	}
	more, err := in.Reader.Read(b[n:])
	return n + more, err
}

// cut makes an error of what would read like an end: carriers have none.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// frame reads a frame, of data the header only.
func (in *input) frame(p *Pipe, c *Carrier) error {
	head, err := in.Peek(headSize)
	if err != nil {
		return cut(err)
	}
	kind, length := head[0], int(binary.BigEndian.Uint32(head)&0xffffff)
	switch kind {
	case typeData:
		return in.data(p, c, length)
	case typeDatagram:
		return in.announce(p, c, length)
	}
	if length != 0 {
		return Breach{fmt.Sprintf("frame of type %d with %d bytes", kind, length)}
	}
	b, err := in.Peek(smallFrame)
	if err != nil {
		return cut(err)
	}
	value := binary.BigEndian.Uint64(b[headSize:])
	in.Discard(smallFrame) // cannot fail: they are there
	return p.obey(c, kind, value)
}

func (in *input) data(p *Pipe, c *Carrier, length int) error {
	b, err := in.Peek(dataHead)
	if err != nil {
		return cut(err)
	}
	offset := binary.BigEndian.Uint64(b[headSize:])
	acked := binary.BigEndian.Uint64(b[headSize+valueSize:])
	in.Discard(dataHead)
	if length == 0 || length > maxData {
		return Breach{fmt.Sprintf("data frame of %d bytes", length)}
	}
	known, err := p.expect(c, offset, acked)
	if err != nil {
		return err
	}
	in.expect(length)
	in.skip = int(min(known, uint64(length)))
	return nil
}

// announce begins a datagram.
func (in *input) announce(p *Pipe, c *Carrier, length int) error {
	if length == 0 || length > maxDatagram {
		return Breach{fmt.Sprintf("datagram of %d bytes", length)}
	}
	in.Discard(headSize)
	if length <= in.Buffered() {
		b, _ := in.Peek(length) // cannot fail: it is there
		p.arrive(c, b)
		in.Discard(length)
		return nil
	}
	in.expect(length)
	in.datagram, in.told = p.roomFor(c, length), time.Now()
	return nil
}

// expect begins n bytes of payload.
func (in *input) expect(n int) {
	in.left = n
	if in.conn != nil {
		in.conn.Expect(max(0, n-in.Buffered()))
	}
}

// more reads what has come of a datagram.
func (in *input) more(p *Pipe, c *Carrier) error {
	n, err := in.Reader.Read(in.datagram[len(in.datagram)-in.left:])
	in.left -= n
	if in.partial = in.left > 0; in.partial {
		return cut(err)
	}
	p.arrive(c, in.datagram)
	p.complete()
	in.datagram = nil
	return cut(err)
}

// skipToClose reads up to the close frame, or the carrier's end.
func (in *input) skipToClose() {
	for {
		if _, err := in.Discard(in.left); err != nil {
			return
		}
		head, err := in.Peek(headSize)
		if err != nil || head[0] == typeClose {
			return
		}
		in.left = smallFrame
		switch length := int(binary.BigEndian.Uint32(head) & 0xffffff); head[0] {
		case typeData:
			in.left = dataHead + length
		case typeDatagram:
			in.left = headSize + length
		}
	}
}

// expect judges the header of a data frame, and tells how many bytes from
// offset on are known already.
func (p *Pipe) expect(c *Carrier, offset, acked uint64) (known uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.carrier != c {
		return 0, nil
	}
	if offset > p.received {
		return 0, Breach{"data with a gap before it"}
	}
	return p.received - offset, p.heed(c, acked)
}

// obey carries out a frame that is a value.
func (p *Pipe) obey(c *Carrier, kind byte, value uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.closed = c.closed || kind == typeClose
	if p.carrier != c {
		return nil
	}
	now := time.Now()
	c.hear(now)
	switch kind {
	case typeAck:
		return p.heed(c, value)
	case typePing:
		c.pong, c.pongDue = value, true
		c.prompt()
	case typePong:
		if c.pingOpen && value == c.ping {
			p.measure(c, now)
			return p.dun(c, now)
		}
	case typeClose:
		return PeerClosed{Reason: value}
	default:
		return Breach{fmt.Sprintf("frame of type %d", kind)}
	}
	return nil
}

// heed takes an acknowledgement. The caller holds mu.
func (p *Pipe) heed(c *Carrier, acked uint64) error {
	c.hear(time.Now())
	if acked > p.out.sent {
		return Breach{"it acknowledges bytes that it was never sent"}
	}
	if acked > p.out.acked {
		c.trust()
		p.acknowledge(acked)
	}
	return nil
}
