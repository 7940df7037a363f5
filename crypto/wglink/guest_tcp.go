package wglink

import (
	"context"
	"errors"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxCalls is how many TCP connections a guest may have that are not open yet,
	// and maxCallsInAll how many all guests. What comes beyond is dropped, and the
	// guest tries again.
	maxCalls      = 256
	maxCallsInAll = 8192

	// maxConns is how many TCP connections a guest may have, with those that are
	// not open yet and those that it has not yet seen closed.
	maxConns = 4096

	// callTimeout is how long it may take from a guest's call to an open
	// connection. Guests themselves wait for 75 s and more.
	callTimeout = time.Minute

	// abortPeriod is how often it is tried to end a handshake that has just begun.
	abortPeriod = 10 * time.Millisecond
)

// errSettled says that a call has been accepted or refused before.
var errSettled = errors.New("the call is settled")

// Call is a TCP connection that a guest wants. Its methods are safe for concurrent
// use. The first of them settles it.
type Call struct {
	Flow

	visitor *visitor
	id      stack.TransportEndpointID
	first   uint32 // sequence number
	ctx     context.Context
	cancel  context.CancelFunc
	request *tcp.ForwarderRequest

	mu      sync.Mutex // guards what follows
	settled bool
	conn    *guestConn // nil unless it was accepted
}

// segment takes a TCP segment that belongs to no connection. If it gives false,
// the stack answers with a reset, unless the segment is one.
func (h *hall) segment(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	source := fromStack(id.RemoteAddress, id.RemotePort)
	b := header.TCP(p.TransportHeader().Slice())
	v := h.visitor(source.Addr())
	if v == nil || len(b) < header.TCPMinimumSize || id.RemotePort == 0 || id.LocalPort == 0 {
		return true
	}
	switch flags := b.Flags(); {
	case flags.Contains(header.TCPFlagRst):
		h.hangUp(id, b.SequenceNumber())
		return true
	case !flags.Contains(header.TCPFlagSyn) || flags.Contains(header.TCPFlagAck):
		return false
	}
	c := h.ring(v, id, b.SequenceNumber())
	if c != nil && !h.calls.HandlePacket(id, p) {
		c.cancel()
		h.forget(c) // it was garbled, and arrive is not called
		h.busy.Done()
	}
	return true
}

// ring notes down a call, which arrive will serve. It gives nil if there is no room
// for it, or it is known.
func (h *hall) ring(v *visitor, id stack.TransportEndpointID, first uint32) *Call {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.waiting[id]; c != nil {
		if c.first != first {
			c.cancel() // the guest has given up, and calls once more
		}
		return nil
	}
	if h.over || len(h.waiting) >= maxCallsInAll || v.ringing >= maxCalls || v.ringing+v.connections() >= maxConns {
		h.drops.limit.Add(1)
		return nil
	}
	c := &Call{
		Flow:    v.flow(fromStack(id.RemoteAddress, id.RemotePort), fromStack(id.LocalAddress, id.LocalPort)),
		visitor: v,
		id:      id,
		first:   first,
	}
	c.ctx, c.cancel = context.WithCancel(v.ctx)
	h.waiting[id] = c
	v.ringing++
	v.peer.flows.Add(1)
	h.busy.Add(1)
	return c
}

// hangUp ends a call that the guest takes back.
func (h *hall) hangUp(id stack.TransportEndpointID, sequence uint32) {
	if c := h.call(id); c != nil && sequence == c.first+1 {
		c.cancel()
	}
}

// call gives a call that waits; nil if there is none.
func (h *hall) call(id stack.TransportEndpointID) *Call {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.waiting[id]
}

// forget notes that a call waits no more.
func (h *hall) forget(c *Call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting[c.id] == c {
		delete(h.waiting, c.id)
		c.visitor.ringing--
		c.visitor.peer.flows.Add(-1)
	}
}

// arrive serves a call. The stack runs it in a goroutine of its own.
func (h *hall) arrive(r *tcp.ForwarderRequest) {
	defer h.busy.Done()
	c := h.call(r.ID())
	c.request = r
	defer c.end()
	timeout := time.AfterFunc(callTimeout, c.timeOut)
	defer timeout.Stop()
	switch {
	case !h.isOwn(c.Target.Addr()):
		h.host.Connect(c.ctx, c)
	case c.Target.Port() == doorPort:
		c.take(func(conn Conn) { h.host.Door(c.ctx, c.Flow, conn) })
	case c.Target.Port() == dnsPort:
		c.take(func(conn Conn) { h.serveDNS(c, conn) })
	default:
		c.Refuse(Refused)
	}
}

// end cleans up behind whoever has served a call. If that has done nothing, the
// guest is left to try again.
func (c *Call) end() {
	c.settle(false)
	c.cancel()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		conn.abort()
	}
}

// timeOut ends a call that has not become a connection.
func (c *Call) timeOut() {
	if c.visitor.hall.call(c.id) == c {
		c.cancel()
	}
}

// take accepts a call and serves it.
func (c *Call) take(serve func(conn Conn)) {
	conn, err := c.Accept()
	if err != nil {
		c.visitor.hall.log.Debug("guest's connection failed while it opened", "remote", c.Remote, "error", err)
		return
	}
	serve(conn)
}

// Refuse tells the guest why there will be no connection: by a reset if why is
// [Refused], by an ICMP message for other reasons, and not at all for the zero
// Reason. A settled call stays as it is.
func (c *Call) Refuse(why Reason) {
	if c.settle(why == Refused) && why != Refused {
		c.visitor.hall.unreachable(c.Flow, why, c.synopsis())
	}
}

// synopsis is the guest's first segment as far as it has to be known.
func (c *Call) synopsis() []byte {
	b := make(header.TCP, header.TCPMinimumSize)
	b.Encode(&header.TCPFields{
		SrcPort: c.Source.Port(), DstPort: c.Target.Port(), SeqNum: c.first,
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn,
	})
	return b
}

// settle ends a call that gets no connection, unless it is settled.
func (c *Call) settle(reset bool) bool {
	if !c.begin() {
		return false
	}
	c.request.Complete(reset && c.ctx.Err() == nil)
	c.visitor.hall.forget(c)
	return true
}

func (c *Call) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.settled
	c.settled = true
	return !before
}

// Accept gives the connection when it is open at the guest, too. It fails when
// ctx ends before. Unless it was closed, the connection is reset when the [Host]
// is done with the call.
func (c *Call) Accept() (Conn, error) {
	if !c.begin() {
		return nil, errSettled
	}
	defer c.visitor.hall.forget(c)
	var queue waiter.Queue
	opened, ended := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(c.ctx, func() {
		defer close(ended)
		c.abort(opened)
	})
	endpoint, terr := c.request.CreateEndpoint(&queue)
	close(opened)
	if !stop() {
		<-ended
	}
	c.request.Complete(terr != nil && c.ctx.Err() == nil)
	if terr != nil {
		return nil, stackError(terr)
	}
	conn := newGuestConn(c, endpoint, &queue)
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	if !c.visitor.keep(conn) {
		conn.abort()
		return nil, context.Canceled
	}
	return conn, nil
}

// abort ends the handshake with a guest, which may not have begun yet, until it
// has opened.
func (c *Call) abort(opened <-chan struct{}) {
	version := header.IPv4ProtocolNumber
	if c.Source.Addr().Is6() {
		version = header.IPv6ProtocolNumber
	}
	for {
		if e, ok := c.visitor.hall.stack.FindTransportEndpoint(version, tcp.ProtocolNumber, c.id, nic).(*tcp.Endpoint); ok {
			e.Abort()
			return
		}
		select {
		case <-opened:
			return
		case <-time.After(abortPeriod):
		}
	}
}
