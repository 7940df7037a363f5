package udp

import (
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

const (
	// restTime is how long a number stands for nobody before it stands for another
	// peer: longer than a network keeps a datagram.
	restTime = 30 * time.Second

	// staleTime is how long nothing has gone to a peer whose number another peer may
	// have, if there are no others.
	staleTime = 30 * time.Second
)

// peer is whom datagrams of an association go to, at the end that sends them there,
// if a number stands for it.
type peer struct {
	association *Association
	addr        socks.Addr
	label       label
	known       bool // by the other end
	used        time.Time
	place       *list.Element // in numbers.recent
}

// sender is the half of a Mux that sends.
type sender struct {
	mu      sync.Mutex
	numbers numbers

	// What send needs for a moment.
	batch []tunnel.Datagram
	heads []byte
}

// send sends at most batchSize datagrams. They leave in the order in which numbers
// were given: an introduction overtakes no datagram of the peer that had the number before.
func (s *sender) send(a *Association, batch []socks.Datagram) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch, s.heads = s.batch[:0], s.heads[:0]
	for _, d := range batch {
		begin := len(s.heads)
		ordered := s.head(a, d.Addr, now)
		if len(s.heads) > begin {
			s.batch = append(s.batch, tunnel.Datagram{Head: s.heads[begin:], Body: d.Payload, Ordered: ordered})
		}
	}
	_ = a.mux.session.SendDatagrams(s.batch) // any may be lost
	clear(s.batch)
}

// head appends what goes before a payload to or from addr; nothing if that is no
// address. It tells whether that introduces a number.
func (s *sender) head(a *Association, addr socks.Addr, now time.Time) (introduces bool) {
	addr.IP = addr.IP.Unmap().WithZone("")
	p := a.peers[addr]
	if p == nil {
		if !addr.IP.IsValid() {
			if _, err := socks.NewAddr(addr.Name, addr.Port); err != nil {
				return false
			}
		}
		p = s.meet(a, addr, now)
	}
	if p == nil {
		s.heads = appendNamed(s.heads, a.id, 0, addr)
		return false
	}
	p.used = now
	s.numbers.recent.MoveToFront(p.place)
	if p.known {
		s.heads = tunnel.AppendFlow(s.heads, uint32(p.label.number()))
	} else {
		s.heads = appendNamed(s.heads, a.id, p.label, addr)
	}
	return !p.known
}

// meet gives a peer a number; nil if there is none.
func (s *sender) meet(a *Association, addr socks.Addr, now time.Time) *peer {
	if a.over {
		return nil
	}
	p := &peer{association: a, addr: addr}
	if !s.numbers.give(p, now) {
		return nil
	}
	a.peers[addr] = p
	return p
}

// known notes that the other end knows a label. One that means nothing here is from
// long ago, or made up.
func (s *sender) known(l label) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.numbers.holder(l.number()); p != nil && p.label == l {
		p.known = true
	}
}

// leave takes back the numbers of an association that is over.
func (s *sender) leave(a *Association) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a.over = true
	for _, p := range a.peers {
		s.numbers.retire(p, now)
	}
	clear(a.peers)
}

// numbers are those that stand for peers, from 1 to maxNumber. The lowest are given
// first, because they take one byte. The zero numbers is ready.
type numbers struct {
	held    []*peer   // by number; nil: free or resting
	uses    []uint16  // by number
	free    []uint16  // that have been used before, the lowest last
	resting []rest    // the first to be free first
	recent  list.List // of the peers, the last used first
}

type rest struct {
	number uint16
	until  time.Time
}

// give gives p a number, if there is one.
func (n *numbers) give(p *peer, now time.Time) bool {
	if n.held == nil {
		n.held, n.uses = make([]*peer, 1), make([]uint16, 1) // there is no number 0
	}
	n.wake(now)
	var number int
	switch {
	case len(n.free) > 0:
		number = int(n.free[len(n.free)-1])
		n.free = n.free[:len(n.free)-1]
	case len(n.held) <= maxNumber:
		number = len(n.held)
		n.held, n.uses = append(n.held, nil), append(n.uses, 0)
	default:
		n.retireStale(now)
		return false
	}
	n.held[number] = p
	p.label = makeLabel(number, n.uses[number])
	p.used = now
	p.place = n.recent.PushFront(p)
	return true
}

// wake frees the numbers that have rested.
func (n *numbers) wake(now time.Time) {
	for len(n.resting) > 0 && !now.Before(n.resting[0].until) {
		number := n.resting[0].number
		n.resting = n.resting[1:]
		at, _ := slices.BinarySearchFunc(n.free, number, func(x, y uint16) int { return int(y) - int(x) })
		n.free = slices.Insert(n.free, at, number)
	}
}

// retireStale takes the number of the peer that has been silent for the longest, if
// that is long enough.
func (n *numbers) retireStale(now time.Time) {
	if last := n.recent.Back(); last != nil {
		if p := last.Value.(*peer); now.Sub(p.used) >= staleTime {
			delete(p.association.peers, p.addr)
			n.retire(p, now)
		}
	}
}

// retire lets a peer's number rest.
func (n *numbers) retire(p *peer, now time.Time) {
	number := p.label.number()
	n.held[number] = nil
	n.uses[number]++
	n.recent.Remove(p.place)
	n.resting = append(n.resting, rest{number: uint16(number), until: now.Add(restTime)})
}

func (n *numbers) holder(number int) *peer {
	if number >= len(n.held) {
		return nil
	}
	return n.held[number]
}
