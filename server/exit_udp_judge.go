package server

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/tunnel/socks"
)

// verdict is what was said of a destination.
type verdict struct {
	allowed bool
	takes   Filtering      // what it sends
	sent    bool           // something was sent to it since
	asked   *decide.Asking // a decider, which has not answered yet; nil: none
	at      time.Time
}

// allows tells whether datagrams may go to a destination, and come from it. a.mu is
// held.
func (a *association) allows(d destination, now time.Time) bool {
	return a.verdictOf(d, now).allowed
}

// verdictOf is allows where it makes a difference that it is not known yet. a.mu is held.
func (a *association) verdictOf(d destination, now time.Time) verdict {
	v, ok := a.verdicts.get(d)
	if ok && now.Sub(v.at) <= verdictLife {
		return v
	}
	v = verdict{at: now, takes: a.filtering(d)}
	if KeepsIPsecApart(d.at.Port()) {
		a.verdicts.put(d, v)
		return v
	}
	if known := d.at.Addr().IsValid(); !known || a.exit.judgeBy(d.at, a.exit.recentHostAddrs) == nil {
		err := a.permit(d.name, d.at)
		if waits, ok := errors.AsType[*undecided](err); ok {
			v.asked = waits.asked
			return v
		}
		v.allowed = err == nil
	}
	a.verdicts.put(d, v)
	return v
}

// Forget has rules asked anew about every destination.
func (a *association) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.verdicts.new, a.verdicts.old = nil, nil
}

// filtering is by what the datagrams of a destination are taken.
func (a *association) filtering(d destination) Filtering {
	if a.filter != nil {
		if f, err := ParseFiltering(a.filter(d.name, d.at)); err == nil {
			return f
		}
	}
	return a.exit.Filtering
}

// sentTo notes that a datagram goes to a destination of which it was said that it may.
// a.mu is held.
func (a *association) sentTo(d destination, v verdict, now time.Time) {
	if v.sent || a.filter == nil && a.exit.Filtering == EndpointIndependent {
		return
	}
	for _, f := range []Filtering{AddressDependent, AddressAndPortDependent} {
		a.peers.put(f.key(d.at), now)
	}
	v.sent = true
	a.verdicts.put(d, v)
}

// expects tells whether a datagram may come from a peer. Nobody is asked about one that
// was not sent to, where that counts. a.mu is held.
func (a *association) expects(peer netip.AddrPort, now time.Time) bool {
	d := a.from(peer)
	var takes Filtering
	if v, ok := a.verdicts.get(d); ok && now.Sub(v.at) <= verdictLife {
		takes = v.takes
	} else {
		takes = a.filtering(d)
	}
	if takes != EndpointIndependent {
		sent, ok := a.peers.get(takes.key(peer))
		if !ok || now.Sub(sent) > peerLife+verdictLife {
			return false
		}
	}
	return a.allows(d, now)
}

// hold keeps a copy of a datagram until a decider has answered. a.mu is held.
func (a *association) hold(asked *decide.Asking, d socks.Datagram) {
	if a.waiting == maxWaiting {
		a.exit.shared().full.Add(1)
		return
	}
	a.waiting++
	d.Payload = slices.Clone(d.Payload)
	first := len(a.held[asked]) == 0
	if a.held == nil {
		a.held = make(map[*decide.Asking][]socks.Datagram)
	}
	a.held[asked] = append(a.held[asked], d)
	if !first {
		return
	}
	a.lookups.Go(func() {
		select {
		case <-asked.Done():
		case <-a.ctx.Done():
		}
		a.Send(a.released(asked))
	})
}

// released gives the datagrams that have waited for a decider.
func (a *association) released(asked *decide.Asking) []socks.Datagram {
	a.mu.Lock()
	defer a.mu.Unlock()
	batch := a.held[asked]
	delete(a.held, asked)
	a.waiting -= len(batch)
	return batch
}
