package socks

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxSequences is how many datagrams of an association may have fragments missing at
// once. The next one takes the place of the oldest.
const maxSequences = 4

// enhancedUDP is an association of enhanced UDP mode, which has one peer.
type enhancedUDP struct {
	mode      *enhanced
	id        uint32
	transport udpFlags
	local     Addr
	remote    Addr
	allowed   atomic.Uint32 // directions

	socket      *udpSocket // nil if datagrams travel on the connection
	place       *place     // if they do
	association Association
	outside     netip.AddrPort
	closing     chan struct{}
	parts       sync.WaitGroup

	fragments []sequence // oldest first
}

// sequence is a datagram that has fragments missing.
type sequence struct {
	datagram uint16
	reassembly
}

// begin opens an association at both its ends.
func (e *enhanced) begin(ctx context.Context, c control) (*enhancedUDP, error) {
	u := &enhancedUDP{
		mode:      e,
		transport: c.flags & udpTransports,
		local:     c.local,
		remote:    c.remote,
		closing:   make(chan struct{}),
	}
	u.allow(c.flags & udpDirections)
	if err := e.number(u); err != nil {
		return nil, err
	}
	err := u.openSide()
	if err != nil {
		return nil, err
	}
	var reply Reply
	u.association, reply, err = e.guest.associate(ctx, Request{Command: Associate, Dst: c.local, Dialect: SOCKS5}, u)
	if err != nil {
		u.closeSide()
		return nil, err
	}
	u.outside = reply.Bound
	u.serve()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open[u.id] = u
	return u, nil
}

// number gives an association an id that no other has, if there is room for one more.
func (e *enhanced) number(u *enhancedUDP) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.open) >= maxEnhanced {
		return errAssociations
	}
	for e.last++; e.last == 0 || e.open[e.last] != nil; {
		e.last++
	}
	u.id = e.last
	return nil
}

// openSide opens the app's side of the association.
func (u *enhancedUDP) openSide() (err error) {
	a := u.mode.app
	if u.transport == udpUnicast {
		u.socket, err = a.openUDP(u.local)
		return err
	}
	u.place, err = a.door.takePlace(a.source.Addr())
	return err
}

func (u *enhancedUDP) closeSide() {
	if u.socket != nil {
		u.socket.close()
		return
	}
	u.place.leave()
}

// serve carries datagrams until the association is closed. If it ends by itself, so does
// the connection: there is no other way to tell the app.
func (u *enhancedUDP) serve() {
	u.parts.Go(func() {
		select {
		case <-u.closing:
		case <-u.association.Done():
			u.mode.end(errOver)
		}
	})
	if u.socket != nil {
		u.parts.Go(func() {
			if err := u.socket.receive(u, u.association); err != nil {
				select {
				case <-u.closing:
				default:
					u.mode.end(err)
				}
			}
		})
	}
}

// close ends the association, and waits for all that it has started.
func (u *enhancedUDP) close() {
	close(u.closing)
	u.closeSide()
	u.parts.Wait()
	u.association.Close()
}

func (u *enhancedUDP) allow(directions udpFlags)   { u.allowed.Or(uint32(directions)) }
func (u *enhancedUDP) may(direction udpFlags) bool { return u.allowed.Load()&uint32(direction) != 0 }

// deny takes directions away, and gives what is left.
func (u *enhancedUDP) deny(directions udpFlags) (left udpFlags) {
	return udpFlags(u.allowed.And(^uint32(directions))) &^ directions
}

// unpack reads a packet over UDP. Its datagram goes to the one peer there is.
func (u *enhancedUDP) unpack(batch []Datagram, now time.Time, from netip.AddrPort, packet []byte) []Datagram {
	p, ok := parseUDPPlus(packet)
	if !ok || p.association != u.id || !u.may(udpSend) || !u.socket.admit(from) {
		return batch
	}
	d := Datagram{u.remote, p.payload}
	if p.frag != 0 {
		d, ok = u.add(now, p, d)
	}
	if ok {
		batch = append(batch, d)
	}
	return batch
}

// add takes a fragment, and gives the datagram that is whole with it, if there is one.
func (u *enhancedUDP) add(now time.Time, p udpPlus, d Datagram) (Datagram, bool) {
	u.forget(now)
	for i := range u.fragments {
		if u.fragments[i].datagram == p.datagram {
			return u.fragments[i].add(now, p.frag, d)
		}
	}
	if p.frag&^lastFragment != 1 {
		return Datagram{}, false // its first fragment is lost
	}
	if len(u.fragments) == maxSequences {
		u.fragments[0].drop()
		u.fragments = append(u.fragments[:0], u.fragments[1:]...)
	}
	u.fragments = append(u.fragments, sequence{p.datagram, reassembly{desk: &u.mode.app.door.udp}})
	return u.fragments[len(u.fragments)-1].add(now, p.frag, d)
}

// forget drops what is complete, or has waited for too long.
func (u *enhancedUDP) forget(now time.Time) (next time.Time) {
	kept := u.fragments[:0]
	for _, s := range u.fragments {
		until := s.forget(now)
		if until.IsZero() {
			continue
		}
		if kept = append(kept, s); next.IsZero() || until.Before(next) {
			next = until
		}
	}
	clear(u.fragments[len(kept):])
	u.fragments = kept
	return next
}

func (u *enhancedUDP) drop() {
	for i := range u.fragments {
		u.fragments[i].drop()
	}
	u.fragments = nil
}

// Deliver gives the app what its peer sends.
func (u *enhancedUDP) Deliver(batch []Datagram) {
	if !u.may(udpReceive) {
		return
	}
	if u.socket == nil {
		u.enclose(batch)
		return
	}
	out := u.socket.compose()
	if out == nil {
		return
	}
	defer out.send()
	for _, d := range batch {
		if d.Addr != u.remote {
			continue
		}
		if room := out.room(headUDPPlus + len(d.Payload)); room != nil {
			out.add(appendUDPPlus(room, u.id, d.Payload))
		}
	}
}

// enclose gives the app datagrams on its connection, as far as there is room.
func (u *enhancedUDP) enclose(batch []Datagram) {
	for _, d := range batch {
		if d.Addr != u.remote || len(d.Payload) > maxEnclosed {
			continue
		}
		u.mode.out.append(outboxBytes, headEnclosed+len(d.Payload), func(b []byte) []byte {
			return appendEnclosed(b, u.id, d.Payload)
		})
	}
}

// Lost tells nobody: the mode has no words for it.
func (u *enhancedUDP) Lost(Loss) {}
