package resume

import (
	"context"
	"errors"
)

// datagramQueue is how many bytes of datagrams may wait in each direction.
const datagramQueue = 256 << 10

// datagramBatch is how many bytes of datagrams go out in one write.
const datagramBatch = 32 << 10

// datagramCost is what a datagram costs in a queue beyond its bytes.
const datagramCost = 64

// datagrams is a queue that drops the oldest when it is full.
type datagrams struct {
	queue [][]byte
	bytes int    // with what each costs
	lost  uint64 // dropped so far
}

func (d *datagrams) push(b []byte) {
	d.queue = append(d.queue, b)
	d.bytes += len(b) + datagramCost
	for d.bytes > datagramQueue {
		d.pop()
		d.lost++
	}
}

// pop takes the oldest; nil if there is none.
func (d *datagrams) pop() []byte {
	if len(d.queue) == 0 {
		return nil
	}
	b := d.queue[0]
	d.queue[0] = nil
	if d.queue = d.queue[1:]; len(d.queue) == 0 {
		d.queue = nil
	}
	d.bytes -= len(b) + datagramCost
	return b
}

func (d *datagrams) drop() {
	d.lost += uint64(len(d.queue))
	d.queue, d.bytes = nil, 0
}

// batch appends frames for the oldest datagrams to b.
func (d *datagrams) batch(b []byte) []byte {
	for len(d.queue) > 0 && (len(b) == 0 || len(b)+headSize+len(d.queue[0]) <= datagramBatch) {
		datagram := d.pop()
		var head [headSize]byte
		putHead(head[:], typeDatagram, len(datagram))
		b = append(append(b, head[:]...), datagram...)
	}
	return b
}

// ErrDatagramSize says that a datagram is empty or too long.
var ErrDatagramSize = errors.New("a datagram has 1 to 65599 bytes")

// SendDatagram sends one datagram, of head and body, if there is a carrier. It keeps
// neither. It never waits: of those that the carrier cannot take in time the oldest are
// dropped, and all while there is no carrier. A datagram that is lost with its carrier is
// not sent again.
func (p *Pipe) SendDatagram(head, body []byte) error {
	size := len(head) + len(body)
	if size == 0 || size > maxDatagram {
		return ErrDatagramSize
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return p.err
	case p.carrier == nil:
		p.outbound.lost++
		return nil
	}
	p.outbound.push(append(append(make([]byte, 0, size), head...), body...))
	p.carrier.prompt()
	return nil
}

// ReceiveDatagram waits for a datagram. If nobody waits for them, the oldest
// are dropped.
func (p *Pipe) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	for {
		p.mu.Lock()
		b, err := p.inbound.pop(), p.err
		p.mu.Unlock()
		switch {
		case b != nil:
			return b, nil
		case err != nil:
			return nil, err
		}
		select {
		case <-p.arrived:
		case <-p.over:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// arrive queues a datagram that has come in.
func (p *Pipe) arrive(b []byte) {
	p.inbound.push(b)
	select {
	case p.arrived <- struct{}{}:
	default:
	}
}
