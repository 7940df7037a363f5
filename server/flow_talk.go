package server

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/sniff"
	"github.com/adit-net/adit/tunnel/socks"
)

const (
	// maxTalks is how many talks of an association are remembered. One that was forgotten
	// begins anew.
	maxTalks = 256

	// maxNoted is how many datagrams of an association are looked at for the record.
	maxNoted = 64
)

// talks finds out what is spoken in an association, for the record and for rules that
// want to know: with each destination it may be something else. Nothing is held back. What
// a datagram is shows at once, or it is unknown until more of its kind have come.
type talks struct {
	flow  *flow
	noted atomic.Bool // the record needs no more

	mu    sync.Mutex
	shown int   // for the record
	first *talk // whose protocol is on record; nil: nobody is sure yet
	of    recent[destination, *talk]
	names recent[netip.AddrPort, destination] // what a peer is that was sent to by a name
}

// talk is what an app and a destination say to each other.
type talk struct {
	to     destination
	called bool             // the peer has begun it
	ear    *sniff.Datagrams // nil when no more is to be learnt
	speech spoken

	denied bool
	policy *policy.Policy // that says so
	at     time.Time      // when it did
}

func newTalks(f *flow) *talks {
	t := &talks{flow: f, of: recent[destination, *talk]{limit: maxTalks}, names: recent[netip.AddrPort, destination]{limit: maxTalks}}
	t.noted.Store(f.caller.server.cfg.Audit == nil)
	return t
}

// asks gives the rules if they depend on what is spoken, or nil, and tells whether anybody
// wants to know that.
func (t *talks) asks() (p *policy.Policy, listens bool) {
	s := t.flow.caller.server
	if p = s.policy.Load(); p != nil && p.Listens() {
		return p, true
	}
	d := s.decider()
	return nil, d != nil && d.Listens()
}

// up gives what may go on of what the app says.
func (t *talks) up(batch []socks.Datagram) []socks.Datagram {
	return t.pass(batch, func(d socks.Datagram) *talk {
		return t.find(destination{strings.ToLower(d.Addr.Name), netip.AddrPortFrom(d.Addr.IP.Unmap(), d.Addr.Port)}, false)
	}, false)
}

// down gives what may go on of what peers say.
func (t *talks) down(batch []socks.Datagram) []socks.Datagram {
	return t.pass(batch, func(d socks.Datagram) *talk {
		peer := netip.AddrPortFrom(d.Addr.IP.Unmap(), d.Addr.Port)
		if to, ok := t.names.get(peer); ok {
			return t.find(to, true)
		}
		return t.find(destination{at: peer}, true)
	}, true)
}

func (t *talks) pass(batch []socks.Datagram, of func(socks.Datagram) *talk, down bool) []socks.Datagram {
	p, listens := t.asks()
	if !listens && t.noted.Load() {
		return batch
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	copied := false
	passed := batch
	for i, d := range batch {
		k := of(d)
		t.hear(k, d.Payload, down)
		if p != nil && (k.policy != p || now.Sub(k.at) > verdictLife) {
			t.judge(k, p, now)
		}
		denied := p != nil && k.denied
		if denied && !copied {
			passed, copied = slices.Clone(batch[:i]), true
		} else if !denied && copied {
			passed = append(passed, d)
		}
	}
	return passed
}

// find gives the talk with a destination, which begins now if there is none. mu is held.
func (t *talks) find(to destination, called bool) *talk {
	k, ok := t.of.get(to)
	if !ok {
		k = &talk{to: to, called: called, ear: &sniff.Datagrams{Port: to.at.Port()}}
		t.of.put(to, k)
	}
	return k
}

// hear shows a datagram. mu is held.
func (t *talks) hear(k *talk, b []byte, down bool) {
	if k.ear == nil {
		return
	}
	var v sniff.Verdict
	if down == k.called {
		v = k.ear.Up(b)
	} else {
		v = k.ear.Down(b)
	}
	if v.Protocol == "" {
		v = k.ear.Expire()
	}
	if v.Protocol == "" {
		v.Protocol = sniff.Unknown
	}
	if !t.noted.Load() {
		t.note(k, v)
	}
	if !v.More {
		k.ear = nil
	}
	if s := (spoken{string(v.Protocol), string(v.Carries), v.Host, v.Doubt != ""}); s != k.speech {
		k.speech, k.policy = s, nil
	}
}

// note puts on record what is spoken. Of several things it is the first that is sure. mu is
// held.
func (t *talks) note(k *talk, v sniff.Verdict) {
	t.shown++
	over := t.shown == maxNoted
	if (t.first == nil || t.first == k) && (v.Protocol != sniff.Unknown || t.shown == 1) {
		t.flow.recognised(v)
		if v.Protocol != sniff.Unknown && v.Certain {
			t.first = k
			over = over || !v.More
		}
	}
	t.noted.Store(over)
}

// judge has rules decide. mu is held.
func (t *talks) judge(k *talk, p *policy.Policy, now time.Time) {
	_, err := t.flow.wish.judge(k.to, k.speech)
	k.denied, k.policy, k.at = err != nil, p, now
}

// speech is what is spoken with a destination. If its address is known by now, that is
// kept.
func (t *talks) speech(to destination) spoken {
	key := to
	if to.name != "" {
		key.at = netip.AddrPortFrom(netip.Addr{}, to.at.Port())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.of.get(key)
	if !ok {
		return spoken{}
	}
	if key != to && to.at.Addr().IsValid() {
		k.to.at = to.at
		t.names.put(to.at, key)
	}
	return k.speech
}
