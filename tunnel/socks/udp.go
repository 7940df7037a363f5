package socks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultMaxAssociations is how many associations a listener has at once if [UDP]
// does not say.
const DefaultMaxAssociations = 4096

const (
	// A host has at most this part of a listener's associations, so that no single
	// one takes them all.
	hostShare = 4

	// maxUnfinished is how many bytes of datagrams whose last fragments have not come a
	// listener keeps. What goes beyond that is lost.
	maxUnfinished = 16 << 20

	// maxReading is how many associations of a listener read at the same moment. Only
	// those have buffers to read into, and none of them waits for anything.
	maxReading = 8
)

// UDP is how a door serves what needs a UDP port beside an app's connection. The
// zero value serves it at the address by which the app has reached the door.
type UDP struct {
	Off bool // nothing of it is served

	// Advertise is the address that apps are told to send to if the door is behind a
	// NAT that keeps ports, as that of a container on the host's network. Apps that
	// come over loopback are told the real one.
	Advertise netip.Addr

	// MaxAssociations is how many associations each listener has at once. A host, which
	// has a /64 in IPv6, has at most a quarter of them. Zero is DefaultMaxAssociations.
	MaxAssociations int
}

var (
	errUDPOff       = &Error{CommandNotSupported, errors.New("datagrams are not served here")}
	errAssociations = &Error{GeneralFailure, errors.New("there are too many associations")}
	errOver         = errors.New("the association is over")
	errTalks        = errors.New("the app talks where it has nothing to say")
)

// udpDesk is what the associations of one listener share. The zero udpDesk is ready.
type udpDesk struct {
	associations places
	unfinished   atomic.Int64 // bytes of fragments

	once    sync.Once
	reading chan struct{} // holds an item for each association that reads
}

// turns is where associations queue to read.
func (d *udpDesk) turns() chan struct{} {
	d.once.Do(func() { d.reading = make(chan struct{}, maxReading) })
	return d.reading
}

// associate carries out a UDP ASSOCIATE of SOCKS 5. The app's connection has nothing
// to carry from the answer on, but the association lives no longer than it does.
func (a *app) associate(ctx context.Context, g *guest, r Request, answer answer) error {
	a.conn.SetDeadline(time.Time{})
	a.door.Log.Debug("app asks for an association", "app", a.source, "dialect", r.Dialect)
	u, association, err := a.open5(ctx, g, r)
	switch {
	case errors.Is(err, errGone):
		return err
	case err != nil:
		return a.refuse(&Error{CodeOf(err), err}, answer)
	}
	if err := a.tell(answer(Reply{Bound: u.socket.told})); err != nil {
		u.socket.close()
		association.Close()
		return err
	}
	return a.keep(association, u.socket, u)
}

// open5 opens an association at both its ends.
func (a *app) open5(ctx context.Context, g *guest, r Request) (*udp5, Association, error) {
	socket, err := a.openUDP(r.Dst)
	if err != nil {
		return nil, nil, err
	}
	u := &udp5{socket: socket, fragments: reassembly{desk: &a.door.udp}}
	var association Association
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	gone := a.attend(giveUp, func() { association, _, err = g.associate(ctx, r, u) })
	if gone == nil && err == nil {
		return u, association, nil
	}
	socket.close()
	if err == nil {
		association.Close()
	}
	return nil, nil, cmp.Or(gone, err)
}

func (g *guest) associate(ctx context.Context, r Request, in Inbox) (Association, Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	r.User, r.Source = g.user, g.source
	return g.relay.Associate(ctx, r, in)
}

// keep serves an association until it is over, or the app has gone, and leaves
// nothing of it behind.
func (a *app) keep(association Association, socket *udpSocket, dialect udpDialect) error {
	a.in = nil // what it holds is for nobody
	ended := make(chan error, 2)
	var parts sync.WaitGroup
	parts.Go(func() { ended <- a.hold() })
	parts.Go(func() { ended <- socket.receive(dialect, association) })
	var err error
	select {
	case err = <-ended:
	case <-association.Done():
		err = errOver
	}
	a.conn.SetReadDeadline(time.Unix(1, 0))
	socket.close()
	parts.Wait()
	association.Close()
	return err
}

// hold waits for the app to go. What it says until then means nothing.
func (a *app) hold() error {
	var b [64]byte
	for said := 0; said < dismissBytes; {
		n, err := a.conn.Read(b[:])
		if err != nil {
			return fmt.Errorf("%w: %w", errGone, err)
		}
		said += n
	}
	return errTalks
}

// takePlace gives the place of one more association of a host's.
func (s *serving) takePlace(host netip.Addr) (*place, error) {
	limit := cmp.Or(s.UDP.MaxAssociations, DefaultMaxAssociations)
	place, ok := s.udp.associations.enter(host, limit, max(1, limit/hostShare))
	if !ok {
		return nil, errAssociations
	}
	return place, nil
}

// openUDP opens the port for an app's datagrams. The hint is where the app says that
// it will send from.
func (a *app) openUDP(hint Addr) (*udpSocket, error) {
	if a.door.UDP.Off {
		return nil, errUDPOff
	}
	local, host := a.udpHosts(hint)
	place, err := a.door.takePlace(host)
	if err != nil {
		return nil, err
	}
	s, err := newUDPSocket(local)
	if err != nil {
		place.leave()
		return nil, fmt.Errorf("open a port for datagrams: %w", err)
	}
	s.desk, s.host, s.place = &a.door.udp, host, place
	if c, ok := a.conn.(*gssConn); ok {
		s.channel = c.channel // datagrams are protected as their connection is
	}
	s.told = unmapped(s.local)
	if outside := a.door.UDP.Advertise; outside.IsValid() && !host.IsLoopback() {
		s.told = netip.AddrPortFrom(outside, s.local.Port())
	}
	if named := namedSource(hint, host); named.IsValid() {
		s.settle(netip.AddrPortFrom(named.Addr().WithZone(local.Zone()), named.Port()))
	} else {
		s.vet = a.sourceVetter(s)
	}
	return s, nil
}

// udpHosts gives the address by which the app has reached the door, and the app's
// own. Those of an app at a Unix socket are on loopback.
func (a *app) udpHosts(hint Addr) (local, host netip.Addr) {
	if t, ok := a.conn.LocalAddr().(*net.TCPAddr); ok && a.source.IsValid() {
		local = t.AddrPort().Addr().Unmap()
		return local, a.source.Addr()
	}
	local = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if hint.IP.Is6() && !hint.IP.Is4In6() {
		local = netip.IPv6Loopback()
	}
	return local, local
}

// namedSource is where the app will send from, if its word can be relied on. An app
// behind a NAT does not know, and some put their target there.
func namedSource(hint Addr, host netip.Addr) netip.AddrPort {
	ip := hint.IP.Unmap()
	if hint.Port != 0 && (ip == host || ip.IsUnspecified() && host.IsLoopback()) {
		return netip.AddrPortFrom(host, hint.Port)
	}
	return netip.AddrPort{}
}

// sourceVetter gives what judges the sender of a first datagram, beside its host. On
// this machine it must belong to the app's user: whoever else sends there would get
// at what the app alone may use. It is nil where nobody could tell, and the door is not
// one that goes by users.
func (a *app) sourceVetter(s *udpSocket) func(source netip.AddrPort) error {
	owner, err := ownerOf(a.conn)
	if err == nil {
		err = canTellOwners(s.local, s.host)
	}
	admission := a.door.Admission
	byUser := !admission.asks() && !admission.Anyone && !admission.vouched
	switch {
	case err == nil:
		return func(source netip.AddrPort) error { return checkOwner(source, s.local, owner) }
	case byUser:
		return func(netip.AddrPort) error { return err }
	}
	return nil
}
