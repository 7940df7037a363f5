package wglink

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Buffers of guests' TCP connections, in bytes, each way. What all connections of
// a guest hold is bounded by maxConns times both guestBuffers, and guestRoom: 192
// MiB. A guest with fewer connections has them grow to what their paths need.
const (
	guestBuffer      = 16 << 10 // what each connection is sure of
	firstGuestBuffer = 64 << 10 // at first, while there is room enough
	maxGuestBuffer   = 4 << 20
	guestRoom        = 64 << 20 // for what the buffers of a guest grow by
)

const (
	// closingTimeout is how long a guest may take to acknowledge what it was sent
	// before the connection was closed.
	closingTimeout = time.Minute

	// A guest's phone may sleep, or be where there is no network. Its connections
	// wait for it. Probes would wake it up.
	guestUserTimeout   = 10 * time.Minute
	guestKeepAliveIdle = 10 * time.Minute
	guestKeepAliveGap  = time.Minute
)

// room is what the buffers of a guest have grown by. It is safe for concurrent use.
type room struct{ used atomic.Int64 }

// take gives false if there is no room for so much, of which limit is the bound.
func (r *room) take(n, limit int64) bool {
	if r.used.Add(n) > limit {
		r.used.Add(-n)
		return false
	}
	return true
}

func (r *room) give(n int64) { r.used.Add(-n) }

// guestConn is a [Conn].
type guestConn struct {
	*tcpConn
	visitor *visitor

	mu   sync.Mutex // guards what follows
	over bool
	held int64 // of the guest's room
}

func newGuestConn(c *Call, endpoint tcpip.Endpoint, queue *waiter.Queue) *guestConn {
	g := &guestConn{visitor: c.visitor, tcpConn: newConn(endpoint, queue, c.Target, c.Source)}
	g.onClose, g.buffers = g.closed, g
	tune(endpoint, guestUserTimeout, guestKeepAliveIdle, guestKeepAliveGap)
	size := int64(guestBuffer)
	if g.take(2*(firstGuestBuffer-guestBuffer), guestRoom/2) {
		size = firstGuestBuffer
	}
	o := endpoint.SocketOptions()
	o.SetReceiveBufferSize(size, false)
	o.SetSendBufferSize(size, true) // from now on it grows by grow alone
	return g
}

// keep notes down a guest's connection. It fails if the guest has been removed.
func (v *visitor) keep(c *guestConn) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone {
		return false
	}
	if v.conns == nil {
		v.conns = map[*guestConn]struct{}{}
	}
	v.conns[c] = struct{}{}
	v.peer.flows.Add(1)
	return true
}

// connections tells how many there are, with those that the guest has not yet
// seen closed.
func (v *visitor) connections() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.conns) + len(v.closing)
}

// closed is called when the conn is closed at this end. What the guest has not
// acknowledged still takes room.
func (g *guestConn) closed() {
	v := g.visitor
	v.mu.Lock()
	_, kept := v.conns[g]
	delete(v.conns, g)
	rest := kept && !g.gone()
	if rest {
		if v.closing == nil {
			v.closing = map[*guestConn]time.Time{}
		}
		v.closing[g] = time.Now()
	}
	v.mu.Unlock()
	if kept {
		v.peer.flows.Add(-1)
	}
	if !rest {
		g.release()
	}
}

// gone tells whether nothing is left of the connection but its name.
func (g *guestConn) gone() bool {
	switch tcp.EndpointState(g.endpoint.State()) {
	case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
		return true
	}
	return false
}

// sweepConns looks for connections that the guest has seen closed, or should
// have.
func (v *visitor) sweepConns(now time.Time) {
	var out []*guestConn
	v.mu.Lock()
	for c, since := range v.closing {
		if c.gone() || now.Sub(since) > closingTimeout {
			out = append(out, c)
			delete(v.closing, c)
		}
	}
	v.mu.Unlock()
	for _, c := range out {
		c.endpoint.Abort()
		c.release()
	}
}

// take takes room from the guest's, and give returns what was too much.
func (g *guestConn) take(n, limit int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over || !g.visitor.room.take(n, limit) {
		return false
	}
	g.held += n
	return true
}

func (g *guestConn) give(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.held -= n
		g.visitor.room.give(n)
	}
}

// release returns all room, for good.
func (g *guestConn) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.visitor.room.give(g.held)
	}
	g.over, g.held = true, 0
}

// received lets the receive buffer grow, as the stack thinks fit, if there is room.
func (g *guestConn) received(n int) {
	o := g.endpoint.SocketOptions()
	before := o.GetReceiveBufferSize()
	most := maxGuestBuffer - before
	if most <= 0 || !g.take(most, guestRoom) {
		return
	}
	g.endpoint.ModerateRecvBuf(n)
	g.give(most - (o.GetReceiveBufferSize() - before))
}

// grow makes the send buffer as long as two congestion windows, if there is
// room.
func (g *guestConn) grow() bool {
	var info tcpip.TCPInfoOption
	if err := g.endpoint.GetSockOpt(&info); err != nil {
		return false
	}
	o := g.endpoint.SocketOptions()
	more := min(2*int64(info.SndCwnd)*int64(g.visitor.hall.cable.sizes.mtu), maxGuestBuffer) - o.GetSendBufferSize()
	if more < guestBuffer || !g.take(more, guestRoom) {
		return false
	}
	o.SetSendBufferSize(o.GetSendBufferSize()+more, true)
	return true
}

// CloseWrite ends the direction to the guest.
func (g *guestConn) CloseWrite() error {
	if err := g.tcpConn.over(nil); err != nil {
		return g.fail("close", err)
	}
	if err := g.endpoint.Shutdown(tcpip.ShutdownWrite); err != nil {
		return g.fail("close", g.cause(err))
	}
	return nil
}

// Reset ends the connection at once.
func (g *guestConn) Reset() error {
	g.abort()
	return nil
}

// WaitRead waits until there is something to read, or nothing any more: whoever
// has many connections needs no buffers for those that rest.
func (g *guestConn) WaitRead() error {
	g.reading.Lock()
	defer g.reading.Unlock()
	for {
		if err := g.tcpConn.over(&g.readBy); err != nil {
			return g.fail("read", err)
		}
		const events = waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr
		if g.endpoint.Readiness(events) != 0 {
			return nil
		}
		if err := g.wait(g.readable, &g.readBy); err != nil && err != os.ErrDeadlineExceeded {
			return g.fail("read", err)
		}
	}
}
