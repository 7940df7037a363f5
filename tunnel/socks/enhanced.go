package socks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// maxEnhanced is how many associations a connection in enhanced UDP mode has at once,
	// beside the limits of the door.
	maxEnhanced = 64

	// maxCommands is how many requests wait for the one that is being carried out. What
	// comes beyond that is refused.
	maxCommands = 16

	// outboxBytes is how many bytes of datagrams wait for a connection that is slow. More
	// are lost. Replies may be as many again.
	outboxBytes = 256 << 10

	// enhancedIdle is how long a connection may have no association and say nothing. It is
	// longer than it takes to open one.
	enhancedIdle = connectTimeout + time.Minute
)

var (
	errBusy   = &Error{GeneralFailure, errors.New("too many requests wait")}
	errUnread = errors.New("the app does not read its replies")
)

// enhanced is an app's connection in enhanced UDP mode: the app asks on it for
// associations with one peer each, whose datagrams travel as packets over UDP or on
// the connection itself.
type enhanced struct {
	app   *app
	guest *guest
	out   outbox
	end   context.CancelCauseFunc

	mu   sync.Mutex
	open map[uint32]*enhancedUDP
	last uint32 // the association that was opened last
}

// enhance puts the app's connection into enhanced UDP mode, and serves it until it
// ends, and all associations with it.
func (a *app) enhance(ctx context.Context, g *guest) error {
	if a.door.UDP.Off {
		return a.refuse(errUDPOff, answer5)
	}
	a.conn.SetDeadline(time.Time{})
	answer := answer5(Reply{})
	answer[0] = 1 // the version of the mode
	if err := a.tell(answer); err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	e := &enhanced{app: a, guest: g, end: end, open: make(map[uint32]*enhancedUDP)}
	e.out.wake = make(chan struct{}, 1)
	requests := make(chan control, maxCommands)
	var parts sync.WaitGroup
	parts.Go(func() { end(e.read(requests)) })
	parts.Go(func() { end(e.out.drain(ctx, a.conn)) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case c := <-requests:
			e.reply(e.carry(ctx, c))
		}
	}
	a.conn.Close()
	parts.Wait()
	for _, u := range e.open {
		u.close()
	}
	return context.Cause(ctx)
}

// reply sends a reply. Who does not read replies gets no more of them.
func (e *enhanced) reply(c control) {
	if !e.out.add(2*outboxBytes, c.appendReply(nil)) {
		e.end(errUnread)
	}
}

// read reads packets from the connection until it ends. While none comes, it holds no
// buffer of its own.
func (e *enhanced) read(requests chan<- control) error {
	for {
		head, err := e.await()
		if err != nil {
			return fmt.Errorf("%w: %w", errGone, err)
		}
		kind, size := head[0], int(binary.BigEndian.Uint16(head[1:]))
		e.app.conn.SetReadDeadline(time.Now().Add(e.app.door.HandshakeTimeout))
		switch {
		case size < headEnhanced, kind == controlRequest && size < headControl, kind == enclosedData && size < headEnclosed:
			return errFraming
		case kind == controlRequest:
			err = e.readRequest(size, requests)
		case kind == enclosedData:
			err = e.readData(size)
		default: // it is for the future
			_, err = e.app.in.Discard(size)
		}
		if err != nil {
			return fmt.Errorf("read packet: %w", noEOF(err))
		}
	}
}

// await waits for the head of a packet.
func (e *enhanced) await() ([]byte, error) {
	for {
		e.app.conn.SetReadDeadline(time.Now().Add(enhancedIdle))
		head, err := e.app.in.Peek(headEnhanced)
		if !errors.Is(err, os.ErrDeadlineExceeded) || !e.inUse() {
			return head, err
		}
	}
}

// inUse tells whether there is an association.
func (e *enhanced) inUse() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.open) > 0
}

// readRequest reads a request, and hands it on.
func (e *enhanced) readRequest(size int, requests chan<- control) error {
	b := make([]byte, min(size, controlBytes))
	if _, err := io.ReadFull(e.app.in, b); err != nil {
		return err
	}
	if _, err := e.app.in.Discard(size - len(b)); err != nil {
		return err
	}
	c, err := parseControl(b)
	if err != nil && c.command == udpBind {
		e.reply(c.failed(err, 0))
		return nil
	}
	select {
	case requests <- c:
	default:
		e.reply(c.failed(errBusy, 0))
	}
	return nil
}

// packetBuffers have room for one packet each.
var packetBuffers = sync.Pool{New: func() any { return new([packetSpace]byte) }}

// readData reads a datagram, and sends it on if that is allowed.
func (e *enhanced) readData(size int) error {
	b := packetBuffers.Get().(*[packetSpace]byte)
	defer packetBuffers.Put(b)
	if _, err := io.ReadFull(e.app.in, b[:size]); err != nil {
		return err
	}
	u := e.find(binary.BigEndian.Uint32(b[headEnhanced:]))
	if u != nil && u.transport == udpEnclosed && u.may(udpSend) && size <= headEnclosed+maxUDP {
		u.association.Send([]Datagram{{u.remote, b[headEnclosed:size:size]}})
	}
	return nil
}

func (e *enhanced) find(association uint32) *enhancedUDP {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.open[association]
}

// failed is the reply to a request that was not carried out. The flags say which parts
// of it would have been possible.
func (c control) failed(err error, possible udpFlags) control {
	return control{command: CodeOf(err).enhanced(), flags: possible, transaction: c.transaction, association: c.association}
}

// carry carries out a request, and gives the reply.
func (e *enhanced) carry(ctx context.Context, c control) control {
	switch c.command {
	case udpBind:
		return e.bind(ctx, c)
	case udpRelease:
		return e.release(c)
	case udpSetTTL: // for multicast alone
		if e.find(c.association) == nil {
			return c.failed(badAssociation, 0)
		}
		return c.failed(badContext, 0)
	}
	return c.failed(CommandNotSupported, 0)
}

// bind opens an association, or adds a direction to one.
func (e *enhanced) bind(ctx context.Context, c control) control {
	if possible, err := c.check(); err != nil {
		return c.failed(err, possible)
	}
	var u *enhancedUDP
	if c.association == 0 {
		var err error
		if u, err = e.begin(ctx, c); err != nil {
			return c.failed(err, 0)
		}
	} else {
		if u = e.find(c.association); u == nil {
			return c.failed(badAssociation, 0)
		}
		if u.transport != c.flags&udpTransports || u.local != c.local || u.remote != c.remote {
			return c.failed(badContext, 0)
		}
		u.allow(c.flags & udpDirections)
	}
	reply := control{flags: c.flags & (udpDirections | udpTransports), transaction: c.transaction, association: u.id}
	reply.remote = Addr{IP: u.outside.Addr(), Port: u.outside.Port()}
	if u.socket != nil {
		reply.local = Addr{IP: u.socket.told.Addr(), Port: u.socket.told.Port()}
	}
	return reply
}

// check fails if a bind cannot be carried out, and tells which parts of it could.
func (c control) check() (possible udpFlags, err error) {
	directions, transport := c.flags&udpDirections, c.flags&udpTransports
	switch {
	case c.flags&udpMulticast != 0 && directions&udpReceive != 0:
		return 0, noMulticastReceive
	case c.flags&udpMulticast != 0:
		return 0, noMulticastSend
	case transport != udpUnicast && transport != udpEnclosed:
		return directions | udpUnicast, GeneralFailure
	case directions == 0:
		return transport, GeneralFailure
	case c.remote.Port == 0 || c.remote.IP.IsUnspecified() || c.remote.Host() == "":
		return 0, AddressNotSupported
	case !c.remote.IP.IsValid() && directions&udpReceive != 0:
		// What comes from a name cannot be told from what does not.
		return udpSend&directions | transport, AddressNotSupported
	}
	return 0, nil
}

// release takes directions from an association, which ends when it has none left.
func (e *enhanced) release(c control) control {
	u := e.find(c.association)
	directions := c.flags & udpDirections
	switch {
	case u == nil:
		return c.failed(badAssociation, 0)
	case directions == 0:
		return c.failed(GeneralFailure, 0)
	}
	if u.deny(directions) == 0 {
		e.mu.Lock()
		delete(e.open, u.id)
		e.mu.Unlock()
		u.close()
	}
	return control{flags: c.flags, transaction: c.transaction, association: c.association}
}

// outbox is what waits to be written to a connection.
type outbox struct {
	wake chan struct{} // holds an item if there may be something

	mu      sync.Mutex
	waiting []byte
}

// add adds a packet, unless more than a limit would wait then. It never waits itself.
func (o *outbox) add(limit int, packet []byte) bool {
	return o.append(limit, len(packet), func(b []byte) []byte { return append(b, packet...) })
}

func (o *outbox) append(limit, size int, packet func(b []byte) []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting)+size > limit {
		return false
	}
	o.waiting = packet(o.waiting)
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return true
}

// drain writes what waits, until ctx ends or the connection does.
func (o *outbox) drain(ctx context.Context, w io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-o.wake:
		}
		o.mu.Lock()
		b := o.waiting
		o.waiting = nil // while nothing waits, nothing is held
		o.mu.Unlock()
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write packets: %w", err)
		}
	}
}
