package socks

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// firstDatagram6 is how long an association waits for the app's first datagram.
	firstDatagram6 = 2 * time.Minute

	// maxQueued6 is how many bytes wait for an app that takes its datagrams from its
	// TCP connection. What goes beyond that is lost.
	maxQueued6 = 256 << 10
)

var (
	errSilent6 = errors.New("the app has not sent its first datagram in time")
	errType6   = errors.New("the app sends a message that is none of an app's")
)

// udp6 is an association of SOCKS 6. Its datagrams come and go over the app's TCP
// connection or in UDP packets, as the first one does.
type udp6 struct {
	id     uint64
	host   netip.Addr // the app's; not valid where it has none
	losses bool       // the app wants to hear of them
	place  *place     // among the door's associations
	port   *port6     // nil if there is none: then there is TCP alone

	session []byte // that it is in; nil if it is in none
	spare   uint16 // the port that is kept for a second one in session; 0: none

	association Association // set before the app knows the id
	over        chan struct{}

	mu     sync.Mutex
	pinned bool
	from   netip.AddrPort // not valid over TCP
	socket *udpSocket     // towards from
	queue  []byte         // for the TCP connection
	more   chan struct{}  // holds an item while there is something in queue
}

// associate6 carries out a UDP ASSOCIATE of SOCKS 6.
func (a *app) associate6(ctx context.Context, g *guest, session []byte, r Request, answer answer) error {
	a.conn.SetDeadline(time.Time{})
	a.door.Log.Debug("app asks for an association", "app", a.source, "dialect", r.Dialect)
	u, reply, err := a.open6(ctx, g, session, r)
	switch {
	case errors.Is(err, errGone):
		return err
	case err != nil:
		return a.refuse(&Error{CodeOf(err), err}, answer)
	}
	defer a.close6(u)
	hello, err := UDPMessage6{Type: UDPInit6, Association: u.id}.AppendBinary(answer(reply))
	if err != nil {
		return err
	}
	if err := a.tell(hello); err != nil {
		return err
	}
	return a.keep6(u)
}

// open6 opens an association, and a way to it for UDP packets if there can be one.
func (a *app) open6(ctx context.Context, g *guest, session []byte, r Request) (*udp6, Reply, error) {
	if a.door.UDP.Off {
		return nil, Reply{}, errUDPOff
	}
	var id [8]byte
	rand.Read(id[:]) // never fails
	u := &udp6{id: binary.BigEndian.Uint64(id[:]), session: session, host: a.source.Addr(), over: make(chan struct{}), more: make(chan struct{}, 1)}
	var err error
	if u.place, err = a.door.takePlace(u.host); err != nil {
		return nil, Reply{}, err
	}
	errorsWanted, asked := FindStack6(r.Stack, StackUDPErrors6)
	u.losses = errorsWanted == StackOn6
	r = a.wish6(session, r)
	var reply Reply
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	gone := a.attend(giveUp, func() { u.association, reply, err = g.associate(ctx, r, u) })
	if gone != nil || err != nil {
		u.place.leave()
		if err == nil {
			u.association.Close()
		}
		return nil, Reply{}, cmp.Or(gone, err)
	}
	if asked {
		reply.Stack = append(reply.Stack, StackOption6{Leg: TargetLeg6, Kind: StackUDPErrors6, Value: errorsWanted})
	}
	if parity, _ := FindStack6(reply.Stack, StackPortParity6); parity&ParityReserve6 != 0 {
		u.spare = reply.Bound.Port() ^ 1
		a.door.sessions.reserve(session, u.spare)
	}
	a.door.ports.join(a.conn.LocalAddr(), u, &a.door.udp)
	return u, reply, nil
}

// wish6 gives a request as the exit is to have it. Of the address that the app wants
// there, only a port counts that is kept in its session; and whoever names one has chosen
// its parity.
func (a *app) wish6(session []byte, r Request) Request {
	wanted := r.Dst.Port
	r.Dst = Addr{IP: netip.IPv4Unspecified()}
	if wanted != 0 && a.door.sessions.claim(session, wanted) {
		r.Dst.Port = wanted
	}
	r.Stack = slices.Clone(r.Stack)
	for i := range r.Stack {
		if r.Stack[i].Kind == StackPortParity6 && session == nil {
			r.Stack[i].Value &^= ParityReserve6 // nobody could use it
		}
	}
	r.Stack = slices.DeleteFunc(r.Stack, func(o StackOption6) bool { return o.Kind == StackPortParity6 && wanted != 0 })
	return r
}

// close6 leaves nothing of an association behind.
func (a *app) close6(u *udp6) {
	a.door.ports.leave(u)
	a.door.sessions.claim(u.session, u.spare)
	u.association.Close()
	u.place.leave()
}

// keep6 serves an association until it is over, or the app has gone.
func (a *app) keep6(u *udp6) error {
	ended := make(chan error, 3)
	silence := time.AfterFunc(firstDatagram6, func() {
		if !u.isPinned() {
			ended <- errSilent6
		}
	})
	defer silence.Stop()
	var parts sync.WaitGroup
	parts.Go(func() { ended <- u.read(a.in) })
	parts.Go(func() { ended <- u.write(a.conn) })
	var err error
	select {
	case err = <-ended:
	case <-u.association.Done():
		err = errOver
	}
	close(u.over)
	a.conn.SetDeadline(time.Unix(1, 0))
	parts.Wait()
	return err
}

// read takes what the app sends over TCP. It holds no more than has come.
func (u *udp6) read(in *bufio.Reader) error {
	for {
		head, err := in.Peek(headUDP6)
		if err != nil {
			return fmt.Errorf("%w: %w", errGone, err)
		}
		if head[0] != version6 {
			return ErrVersion6
		}
		var b []byte
		if size := int(binary.BigEndian.Uint16(head[2:])); size <= in.Size() {
			if b, err = in.Peek(size); err == nil {
				_, err = in.Discard(size)
			}
		} else {
			var long bytes.Buffer
			_, err = io.CopyN(&long, in, int64(size))
			b = long.Bytes()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errGone, err)
		}
		m, err := ParseUDPMessage6(b)
		switch {
		case err != nil:
			return err
		case m.Type != UDPDatagram6:
			return errType6
		case m.Association == u.id:
			u.take(netip.AddrPort{}, m)
		}
	}
}

// take sends on a datagram that comes from the app, over TCP if from is not valid.
func (u *udp6) take(from netip.AddrPort, m UDPMessage6) {
	if !u.pin(from) {
		return
	}
	if len(m.Payload) == 0 && m.Addr.Port == 0 && m.Addr.IP.IsUnspecified() {
		return // it has asked for the confirmation only
	}
	if m.Addr.IP.IsValid() {
		m.Addr.IP = m.Addr.IP.Unmap()
	}
	u.association.Send([]Datagram{{Addr: m.Addr, Payload: m.Payload}})
}

// pin makes the way of the first datagram the only one, and confirms it. It tells
// whether this is the way.
func (u *udp6) pin(from netip.AddrPort) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pinned {
		return from == u.from
	}
	u.pinned, u.from = true, from
	if from.IsValid() {
		u.socket = u.port.towards(from)
	}
	u.enqueue(UDPMessage6{Type: UDPConfirm6, Association: u.id})
	return true
}

func (u *udp6) isPinned() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.pinned
}

// Deliver gives the app what has come for it.
func (u *udp6) Deliver(batch []Datagram) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.pinned {
		return
	}
	if u.socket == nil {
		for _, d := range batch {
			u.enqueue(u.datagram(d))
		}
		return
	}
	out := u.socket.compose()
	defer out.send()
	for _, d := range batch {
		out.put6(u.datagram(d))
	}
}

func (u *udp6) datagram(d Datagram) UDPMessage6 {
	a := Addr{IP: d.Addr.IP.Unmap().WithZone(""), Port: d.Addr.Port}
	return UDPMessage6{Type: UDPDatagram6, Association: u.id, Addr: a, Payload: d.Payload}
}

// Lost tells the app, if it wants to hear, what SOCKS 6 has words for.
func (u *udp6) Lost(l Loss) {
	cause := causeOf(l)
	if cause == 0 {
		return
	}
	m := UDPMessage6{
		Type:        UDPError6,
		Association: u.id,
		Addr:        Addr{IP: l.To.Addr().Unmap().WithZone(""), Port: l.To.Port()},
		Cause:       cause,
		Reporter:    l.Reporter.Unmap().WithZone(""),
	}
	if !m.Reporter.IsValid() { // nobody knows
		m.Reporter = netip.IPv4Unspecified()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case !u.pinned || !u.losses:
	case u.socket == nil:
		u.enqueue(m)
	default:
		out := u.socket.compose()
		defer out.send()
		out.put6(m)
	}
}

func causeOf(l Loss) UDPCause6 {
	switch {
	case l.Code == NetworkUnreachable:
		return UDPNetworkUnreachable6
	case l.Code == HostUnreachable:
		return UDPHostUnreachable6
	case l.Code == TTLExpired:
		return UDPTTLExpired6
	case l.MTU > 0 && l.To.Addr().Unmap().Is6():
		return UDPTooBig6
	}
	return 0
}

// enqueue leaves a message to write, if it can be said and there is room. u.mu is
// held.
func (u *udp6) enqueue(m UDPMessage6) {
	if len(u.queue)+packetSpace6(m) > maxQueued6 {
		return
	}
	queue, err := m.AppendBinary(u.queue)
	if err != nil {
		return
	}
	u.queue = queue
	select {
	case u.more <- struct{}{}:
	default:
	}
}

// packetSpace6 is room enough for any message like this.
func packetSpace6(m UDPMessage6) int { return headUDP6 + 2*(4+16) + len(m.Payload) }

// write writes what is queued, until the association is over.
func (u *udp6) write(to io.Writer) error {
	var spare []byte
	for {
		select {
		case <-u.more:
		case <-u.over:
			return nil
		}
		u.mu.Lock()
		b := u.queue
		u.queue = spare[:0]
		u.mu.Unlock()
		if _, err := to.Write(b); err != nil {
			return fmt.Errorf("write to the app: %w", err)
		}
		if spare = b; cap(spare) > packetSpace {
			spare = nil // a burst is over
		}
	}
}
