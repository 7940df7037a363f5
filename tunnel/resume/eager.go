package resume

import (
	"net"
	"time"
)

// EagerConn is a conn that can be written to without waiting, so that whoever has
// something to send can do it at once, and no other goroutine need be woken for it.
type EagerConn interface {
	net.Conn

	// WriteNow is Write without waiting: it takes all of b and then all of more, which together are
	// pairSize at most, and tells whether some of that is left to be sent. If so, Flush has to be
	// called before anything else is written.
	WriteNow(b, more []byte) (left bool, err error)

	// Flush waits until what WriteNow has left is sent, as Write would have.
	Flush() error
}

// PatientConn is a conn that can wait for many bytes at once, so that who reads is not woken for
// every packet of a frame that is useless before it is whole.
type PatientConn interface {
	net.Conn

	// Expect says how many bytes, at least, are to come after those that have been read.
	// Read then may wait until some more of them are there.
	Expect(n int)
}

// pairSize is how many bytes two frames may have that go out by one WriteNow.
const pairSize = 64 << 10

// TryWriteBuffer is [Pipe.WriteBuffer] if that takes no waiting, and otherwise does
// nothing and gives false. It is not to be called while a Write or WriteBuffer is under way.
//
// If more follows the caller is about to write again, by this or by another method, and b may
// go out with that.
func (p *Pipe) TryWriteBuffer(b *[]byte, more bool) bool {
	payload := (*b)[Headroom:]
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.carrier
	if p.err != nil || c == nil || c.eager == nil || p.sending || c.next < p.out.past() && !p.behind || len(payload) > maxData {
		return false
	}
	if size := sizeOf(len(payload)); p.out.held+size > p.limit || p.yields(c, time.Now()) || !p.book(size) {
		return false
	}
	if full(b) {
		p.out.adopt(b)
	} else {
		p.out.add(payload)
		FreeBuffer(b)
	}
	if more {
		p.behind = true
		return true
	}
	p.flush(c, false, false)
	return true
}

// write writes to c for flush, more only if it may not wait. If c takes without waiting and that is not enough, it
// leaves the rest to Serve, and nothing is written meanwhile. The caller
// holds mu, which is let go of meanwhile.
func (p *Pipe) write(c *Carrier, b, more []byte, wait bool) (left bool) {
	p.mu.Unlock()
	var err error
	if c.eager != nil && !wait {
		left, err = c.eager.WriteNow(b, more)
	} else {
		_, err = c.conn.Write(b)
	}
	p.mu.Lock()
	p.out.finish()
	p.outbound.retake()
	if err != nil {
		p.lose(c, err)
	}
	return left && p.carrier == c // else Serve does not look for it any more
}

// finishLeft sends what a writer has left, if one has. The caller holds mu, which is
// let go of meanwhile.
func (p *Pipe) finishLeft(c *Carrier) {
	if !c.left {
		return
	}
	p.mu.Unlock()
	err := c.eager.Flush()
	p.mu.Lock()
	c.left = false
	p.sending = false
	if err != nil {
		p.lose(c, err)
	}
	p.moved.Broadcast()
}
