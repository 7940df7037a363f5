package udp

import (
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// tellAgain is how long the other end has to hear that a number is known before it is
// told once more.
const tellAgain = 200 * time.Millisecond

// maxKnown bounds what a receiver knows of peers, in bytes. Of more of them the other
// end never hears that they are known, and goes on naming them.
const maxKnown = 1 << 20

// acquaintance is a peer for which a number of the other end's stands.
type acquaintance struct {
	association *Association
	addr        socks.Addr
	label       label
	told        time.Time // when the other end was told last
}

// size is about what an acquaintance takes, in bytes.
func (k *acquaintance) size() int {
	if k == nil {
		return 0
	}
	return 128 + len(k.addr.Name)
}

// receiver is the half of a Mux that receives.
type receiver struct {
	mu           sync.Mutex
	associations map[uint32]*Association
	known        []*acquaintance // by number, as far as there are any
	size         int             // of those
}

// enter lets an association receive.
func (r *receiver) enter(a *Association) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.associations[a.id] != nil {
		return errTwice
	}
	r.associations[a.id] = a
	return nil
}

// leave forgets an association and its peers.
func (r *receiver) leave(a *Association) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.associations[a.id] != a {
		return
	}
	delete(r.associations, a.id)
	for i, k := range r.known {
		if k != nil && k.association == a {
			r.know(i, nil)
		}
	}
}

// inbound is what the reader of a Mux works with.
type inbound struct {
	now     time.Time
	to      *Association // whom batch is for
	batch   []socks.Datagram
	answers []tunnel.Datagram
	heads   []byte // of answers
}

// take hands over what has come. Datagrams of one association that are next to each
// other go together. The error says what no honest end sends.
func (m *Mux) take(in *inbound, packets [][]byte) error {
	in.now = time.Now()
	for _, b := range packets {
		if err := m.sort(in, b); err != nil {
			return err
		}
	}
	in.flush()
	if len(in.answers) > 0 {
		_ = m.session.SendDatagrams(in.answers) // if they are lost they are asked for again
		clear(in.answers)
		in.answers, in.heads = in.answers[:0], in.heads[:0]
	}
	return nil
}

// sort looks what a datagram is.
func (m *Mux) sort(in *inbound, b []byte) error {
	p := parser{rest: b}
	if number := p.flow(); number != 0 {
		in.add(m.receiver.acquainted(number, p.rest))
		return nil
	}
	if p.bad {
		return &tunnel.ProtocolError{What: "datagram without a flow number"}
	}
	switch p.octet() {
	case kindNamed:
		m.named(in, &p)
	case kindKnown:
		if l := label(p.flow()); !p.bad {
			m.sender.known(l)
		}
	case kindLost:
		m.lost(in, &p)
	}
	// Of other kinds a later version may know.
	if p.bad {
		return &tunnel.ProtocolError{What: "datagram that has not the form of its kind"}
	}
	return nil
}

// add puts a datagram into the batch of its association.
func (in *inbound) add(a *Association, d socks.Datagram) {
	if a != in.to {
		in.flush()
	}
	if a != nil {
		in.to = a
		in.batch = append(in.batch, d)
	}
}

func (in *inbound) flush() {
	if in.to != nil {
		in.to.deliver(in.batch)
	}
	clear(in.batch)
	in.to, in.batch = nil, in.batch[:0]
}

// acquainted gives the association of a number, and a datagram that comes from its
// peer.
func (r *receiver) acquainted(number uint32, payload []byte) (*Association, socks.Datagram) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if uint64(number) >= uint64(len(r.known)) || r.known[number] == nil {
		return nil, socks.Datagram{}
	}
	k := r.known[number]
	return k.association, socks.Datagram{Addr: k.addr, Payload: payload}
}

// named takes a datagram that names its peer.
func (m *Mux) named(in *inbound, p *parser) {
	id, l, addr := p.flow(), label(p.flow()), p.addr()
	if p.bad {
		return
	}
	a, tell := m.receiver.meet(in.now, id, l, addr)
	in.add(a, socks.Datagram{Addr: addr, Payload: p.rest})
	if tell {
		begin := len(in.heads)
		in.heads = appendKnown(in.heads, l)
		in.answers = append(in.answers, tunnel.Datagram{Head: in.heads[begin:]})
	}
}

// meet gives the association that a datagram is for, if there is one, and tells
// whether the other end is to hear that its number is known.
func (r *receiver) meet(now time.Time, id uint32, l label, addr socks.Addr) (a *Association, tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a = r.associations[id]
	if a == nil || !addr.IP.IsValid() && addr.Name == "" {
		return nil, false
	}
	return a, l.number() != 0 && r.learn(now, a, l, addr)
}

// learn notes for whom a label stands, unless it is an old one.
func (r *receiver) learn(now time.Time, a *Association, l label, addr socks.Addr) (tell bool) {
	number := l.number()
	if number >= len(r.known) {
		r.known = slices.Grow(r.known, number+1-len(r.known))[:number+1]
	}
	switch k := r.known[number]; {
	case k == nil || l.after(k.label):
		next := &acquaintance{association: a, addr: addr, label: l, told: now}
		if r.size-k.size()+next.size() > maxKnown {
			next = nil // but nobody may take the number for that of before
		}
		r.know(number, next)
		return next != nil
	case k.label == l && k.association == a && k.addr == addr && now.Sub(k.told) >= tellAgain:
		k.told = now
		return true
	}
	return false
}

// know lets a number stand for k, or for nobody.
func (r *receiver) know(number int, k *acquaintance) {
	r.size += k.size() - r.known[number].size()
	r.known[number] = k
}

// lost takes a report of a loss.
func (m *Mux) lost(in *inbound, p *parser) {
	id, l := p.flow(), p.loss()
	if p.bad {
		return
	}
	if a := m.receiver.find(id, l); a != nil {
		in.flush() // what has come before
		a.lose(l)
	}
}

// find gives the association that a report is for, if there is one.
func (r *receiver) find(id uint32, l socks.Loss) *Association {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.associations[id]
	if a == nil || !l.To.IsValid() || l.Code == socks.Succeeded || l.Code > socks.TimedOut {
		return nil
	}
	return a
}
