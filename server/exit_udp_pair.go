package server

import (
	"context"
	"sync"

	"github.com/adit-net/adit/tunnel/socks"
)

// pairTries is how many ports are tried until one is found whose other one is free.
const pairTries = 16

// spares are ports that associations keep for a second one of the same user, as the
// two ports of RTP and RTCP. Each counts as an association.
type spares struct {
	mu     sync.Mutex
	byPort map[uint16]spare
}

type spare struct {
	user   string
	socket *udpSocket
}

func (s *spares) keep(user string, socket *udpSocket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPort == nil {
		s.byPort = make(map[uint16]spare)
	}
	s.byPort[socket.bound().Port()] = spare{user, socket}
}

// take gives the port that a request names and its user has, or nil.
func (s *spares) take(r socks.Request) *udpSocket {
	if r.Dialect != socks.SOCKS6 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.byPort[r.Dst.Port]
	if !ok || kept.user != r.User {
		return nil
	}
	delete(s.byPort, r.Dst.Port)
	return kept.socket
}

// drop tells whether a port was still kept, and closes it then.
func (s *spares) drop(socket *udpSocket) bool {
	port := socket.bound().Port()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPort[port].socket != socket {
		return false
	}
	delete(s.byPort, port)
	socket.close()
	return true
}

// exitPort is what an association goes through.
type exitPort struct {
	socket *udpSocket
	spare  *udpSocket // kept until the association ends, or a second one takes it; nil: none
	stack  []socks.StackOption6
}

// openPort opens a port as a request wants it, or gives the one that is kept for it.
func (e *Exit) openPort(ctx context.Context, r socks.Request) (p exitPort, err error) {
	if p.socket = e.shared().spares.take(r); p.socket != nil {
		return p, nil // it has been counted
	}
	if !e.countAssociation() {
		return p, errAssociations
	}
	want, asked := socks.FindStack6(r.Stack, socks.StackPortParity6)
	var got uint16
	if asked {
		p.socket, p.spare, got, err = e.openPair(ctx, want)
	} else {
		p.socket, err = openUDP(ctx, e.Steer, 0)
	}
	if err != nil {
		e.shared().open.Add(-1)
		return p, err
	}
	switch {
	case p.spare == nil:
	case e.countAssociation():
		e.shared().spares.keep(r.User, p.spare)
	default:
		p.spare.close()
		p.spare = nil
		got &^= socks.ParityReserve6
	}
	if asked {
		p.stack = []socks.StackOption6{{Leg: socks.TargetLeg6, Kind: socks.StackPortParity6, Value: got}}
	}
	return p, nil
}

// countAssociation counts one more, unless there are as many as there may be.
func (e *Exit) countAssociation() bool {
	limit := int64(e.Associations)
	if limit == 0 {
		limit = DefaultAssociations
	}
	if e.shared().open.Add(1) > limit {
		e.shared().open.Add(-1)
		return false
	}
	return true
}

// release gives back the port that an association has kept, if nobody has taken it.
func (e *Exit) release(spare *udpSocket) {
	if spare != nil && e.shared().spares.drop(spare) {
		e.shared().open.Add(-1)
	}
}

// openPair opens a port of the parity that is wanted, and the other one of its pair if
// that is, and tells what of it could be had.
func (e *Exit) openPair(ctx context.Context, want uint16) (port, other *udpSocket, got uint16, err error) {
	fits := func(port uint16) bool {
		switch want &^ socks.ParityReserve6 {
		case socks.ParityEven6:
			return port%2 == 0
		case socks.ParityOdd6:
			return port%2 == 1
		}
		return true
	}
	reserve := want&socks.ParityReserve6 != 0
	for range pairTries {
		port, err := openUDP(ctx, e.Steer, 0)
		if err != nil {
			return nil, nil, 0, err
		}
		number := port.bound().Port()
		if fits(number) && !reserve {
			return port, nil, want, nil
		}
		other, err := openUDP(ctx, e.Steer, number^1)
		if err != nil {
			port.close() // somebody has the other one
			continue
		}
		if !fits(number) {
			port, other = other, port
		}
		if !reserve {
			other.close()
			other = nil
		}
		return port, other, want, nil
	}
	port, err = openUDP(ctx, e.Steer, 0)
	return port, nil, 0, err
}
