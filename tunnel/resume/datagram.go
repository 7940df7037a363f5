package resume

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// datagramQueue is how many bytes of memory the datagrams that wait may take in
// each direction.
const datagramQueue = 256 << 10

// Datagrams wait in chunks of these sizes, in bytes. A large one is what goes out in
// one write; a datagram that is larger has a chunk of its own.
const (
	smallChunk = 2 << 10
	largeChunk = 32 << 10
)

var smallChunks, largeChunks sync.Pool // of *chunk

// chunk holds datagrams as frames, one behind the other.
type chunk struct {
	next *chunk
	buf  []byte
	from int // where the first frame begins that nobody has taken
	left int // frames from there on
}

// chunkFor is the size of a chunk for n bytes.
func chunkFor(n int) int {
	switch {
	case n <= smallChunk:
		return smallChunk
	case n <= largeChunk:
		return largeChunk
	}
	return n
}

// newChunk gives an empty chunk of a size of chunkFor.
func newChunk(size int) *chunk {
	var old any
	switch size {
	case smallChunk:
		old = smallChunks.Get()
	case largeChunk:
		old = largeChunks.Get()
	}
	if c, ok := old.(*chunk); ok {
		return c
	}
	return &chunk{buf: make([]byte, 0, size)}
}

func (c *chunk) free() {
	c.next, c.buf, c.from, c.left = nil, c.buf[:0], 0, 0
	switch cap(c.buf) {
	case smallChunk:
		smallChunks.Put(c)
	case largeChunk:
		largeChunks.Put(c)
	}
}

func (c *chunk) fits(n int) bool { return len(c.buf)+n <= cap(c.buf) }

func (c *chunk) append(head, body []byte) {
	c.buf = binary.BigEndian.AppendUint32(c.buf, typeDatagram<<24|uint32(len(head)+len(body)))
	c.buf = append(append(c.buf, head...), body...)
	c.left++
}

// take gives the payload of the first frame.
func (c *chunk) take() []byte {
	begin := c.from + headSize
	end := begin + int(binary.BigEndian.Uint32(c.buf[c.from:])&0xffffff)
	c.from = end
	c.left--
	return c.buf[begin:end:end]
}

// datagrams is a queue that drops the oldest when it is full. What it holds is
// booked in memory, if that is not nil.
type datagrams struct {
	memory      *Memory
	first, last *chunk
	given       *chunk // whose frames somebody looks at
	partial     *chunk // room for one that is still coming
	held        int    // bytes of all chunks
}

func (d *datagrams) empty() bool { return d.first == nil }

// push queues a copy of a datagram of head and body.
func (d *datagrams) push(head, body []byte) {
	size := headSize + len(head) + len(body)
	if d.last == nil || !d.last.fits(size) {
		d.grow(size)
	}
	d.last.append(head, body)
}

// grow appends a chunk for a frame of size bytes.
func (d *datagrams) grow(size int) {
	least := chunkFor(size)
	size = least
	if !d.empty() {
		size = max(least, largeChunk)
	}
	c := d.claim(size, least)
	if d.empty() {
		d.first = c
	} else {
		d.last.next = c
	}
	d.last = c
}

// claim gives an empty chunk of size bytes, for which the oldest datagrams have to
// go if there is no memory. Once all have gone it is one of least bytes.
func (d *datagrams) claim(size, least int) *chunk {
	for !d.book(size) {
		d.free(d.shift())
		if d.empty() {
			size = least
		}
	}
	return newChunk(size)
}

// book takes memory for n bytes. While nothing waits there is always some, so that
// no pipe is without datagrams for good.
func (d *datagrams) book(n int) bool {
	if !d.empty() && d.held+n > datagramQueue {
		return false
	}
	if d.memory != nil && !d.memory.take(n, d.empty()) {
		return false
	}
	d.held += n
	return true
}

func (d *datagrams) unbook(n int) {
	d.held -= n
	if d.memory != nil {
		d.memory.give(n)
	}
}

func (d *datagrams) free(c *chunk) {
	d.unbook(cap(c.buf))
	c.free()
}

// shift takes the oldest chunk out of the queue.
func (d *datagrams) shift() *chunk {
	c := d.first
	if d.first = c.next; d.first == nil {
		d.last = nil
	}
	c.next = nil
	return c
}

// give takes the oldest chunk out of the queue, which lasts until retake.
func (d *datagrams) give() *chunk {
	d.given = d.shift()
	return d.given
}

func (d *datagrams) retake() {
	if d.given != nil {
		d.free(d.given)
		d.given = nil
	}
}

// read gives the oldest datagrams, as many as into has room for or a chunk
// holds. They last until the next call.
func (d *datagrams) read(into [][]byte) (n int) {
	if d.given == nil || d.given.left == 0 {
		d.retake()
		if d.empty() {
			return 0
		}
		d.give()
	}
	for n < len(into) && d.given.left > 0 {
		into[n] = d.given.take()
		n++
	}
	return n
}

// begin gives room for a datagram of n bytes that is still coming, until complete
// or abandon.
func (d *datagrams) begin(n int) []byte {
	size := chunkFor(n)
	d.partial = d.claim(size, size)
	return d.partial.buf[:n]
}

func (d *datagrams) complete() {
	if d.partial != nil {
		d.free(d.partial)
		d.partial = nil
	}
}

// abandon is complete for a caller who does not know whether the room is in use.
func (d *datagrams) abandon() {
	if d.partial != nil {
		d.unbook(cap(d.partial.buf))
		d.partial = nil
	}
}

// drop drops all that wait.
func (d *datagrams) drop() {
	for !d.empty() {
		d.free(d.shift())
	}
}

// settle gives back all memory of a queue in which nothing comes any more. What
// waits can still be read.
func (d *datagrams) settle() {
	if d.memory != nil {
		d.memory.give(d.held)
		d.memory = nil
	}
}

// Datagram is a datagram to be sent: a head and a body, one behind the other. An
// ordered one arrives, if it does, after all ordered ones before it and those that are too long to
// go past the bytes.
type Datagram struct {
	Head, Body []byte
	Ordered    bool
}

// ErrDatagramSize says that a datagram is empty or too long.
var ErrDatagramSize = fmt.Errorf("a datagram has 1 to %d bytes", maxDatagram)

// SendDatagrams sends datagrams, if there is a carrier. It keeps nothing of batch. It
// never waits: of those that the carrier cannot take in time the oldest are dropped, and
// all while there is no carrier. A datagram that is lost with its carrier is not sent again. One
// of a wrong size is not sent, and the error is [ErrDatagramSize]; the others are.
func (p *Pipe) SendDatagrams(batch []Datagram) (err error) {
	batch = p.sendNative(batch)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	for _, d := range batch {
		switch size := len(d.Head) + len(d.Body); {
		case size == 0 || size > maxDatagram:
			err = ErrDatagramSize
		case p.carrier != nil:
			p.outbound.push(d.Head, d.Body)
		}
	}
	if p.carrier != nil && !p.outbound.empty() {
		p.Chat()
		p.carrier.prompt()
	}
	return err
}

// ReceiveDatagrams waits for datagrams and gives some, at most as many as into has
// room for; they last until the next call. If nobody waits for them, the oldest are dropped.
func (p *Pipe) ReceiveDatagrams(ctx context.Context, into [][]byte) (int, error) {
	for {
		p.mu.Lock()
		n, err := p.inbound.read(into), p.err
		p.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case err != nil:
			return 0, err
		}
		select {
		case <-p.arrived:
		case <-p.over:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// arrive queues a datagram that c has brought.
func (p *Pipe) arrive(c *Carrier, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.carrier != c {
		return
	}
	c.hear(time.Now())
	p.Chat()
	p.enqueue(b)
}

// enqueue queues a datagram that has come. The caller holds mu.
func (p *Pipe) enqueue(b []byte) {
	p.inbound.push(nil, b)
	select {
	case p.arrived <- struct{}{}:
	default:
	}
}

// roomFor gives room for a datagram of which c has brought a part.
func (p *Pipe) roomFor(c *Carrier, n int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.carrier != c {
		return make([]byte, n) // nobody will want it
	}
	return p.inbound.begin(n)
}

func (p *Pipe) complete() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inbound.complete()
}
