package server

import (
	"errors"
	"slices"
	"time"

	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/tunnel/socks"
)

// verdict is what was said of a destination.
type verdict struct {
	allowed bool
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
	v = verdict{at: now}
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
