package server

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/tunnel/socks"
)

// Totals are what a server has done since it was made.
type Totals struct {
	Up, Down int64 // bytes of flows
	Open     int   // flows, now

	// Flows that have ended, by what was decided; those that failed were allowed.
	Allowed, Refused, Failed int64

	Denied int64 // logins
}

// Totals gives figures of this moment.
func (s *Server) Totals() Totals {
	c := s.counts
	t := Totals{Up: c.up.Load(), Down: c.down.Load()}
	for _, n := range c.open {
		t.Open += int(n.Load())
	}
	for e, n := range c.ended {
		switch e.decision {
		case flowAllowed:
			t.Allowed += n.Load()
		case flowRefused:
			t.Refused += n.Load()
		case flowFailed:
			t.Failed += n.Load()
		}
	}
	for a, n := range c.logins {
		if a.denied {
			t.Denied += n.Load()
		}
	}
	return t
}

// FlowStatus is what a server has to say about a flow that is open. Texts may hold anything.
type FlowStatus struct {
	ID       int64 // no other flow of this process has it
	User     string
	Device   string
	Source   netip.AddrPort // the app, as far as it is known
	Dialect  string
	Command  string
	Target   string         // as it was asked for
	Address  netip.AddrPort // that it has reached, or is to
	Protocol string         // "" or unknown: nobody has asked
	Host     string         // that the app has named to the target
	Rule     string         // that has decided
	Since    time.Time
	Up, Down int64 // bytes
}

// Flows gives the flows of this moment, at most so many, and tells how many there are. If they
// are more, it gives those with the most bytes.
func (s *Server) Flows(most int) (flows []FlowStatus, all int) {
	seen := make(map[*caller]bool) // a login's is a visit's as well
	for _, c := range s.callers() {
		if seen[c] {
			continue
		}
		seen[c] = true
		device := c.who().Device
		for _, f := range c.all() {
			flows = append(flows, f.status(device))
		}
	}
	if all = len(flows); all > most {
		slices.SortFunc(flows, func(a, b FlowStatus) int { return cmp.Compare(b.Up+b.Down, a.Up+a.Down) })
		flows = slices.Clone(flows[:most])
	}
	return flows, all
}

func (f *flow) status(device string) FlowStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	protocol, host := f.spoke()
	st := FlowStatus{
		ID:       f.id,
		User:     f.caller.user,
		Device:   device,
		Source:   f.request.Source,
		Dialect:  f.wish.dialect,
		Command:  f.wish.command,
		Address:  f.to.at,
		Protocol: protocol,
		Host:     host,
		Since:    f.began,
		Up:       f.up.Load(),
		Down:     f.down.Load(),
	}
	if f.request.Command != socks.Associate {
		st.Target = f.asked.String()
	}
	if f.rule != nil {
		st.Rule = f.rule.Name
	}
	return st
}

// Refusal is what somebody was not let do, as often as he has tried in a row.
type Refusal struct {
	Time    time.Time // of the last attempt
	User    string
	Source  netip.Addr
	Command string // of a flow, or "login", "session", "enrolment"
	Target  string // or the door of a login
	Why     string
	Times   int
}

// maxRefusals is how many refusals are remembered.
const maxRefusals = 64

// refusals are the last ones, the oldest first.
type refusals struct {
	mu  sync.Mutex
	all []Refusal
}

// add remembers a refusal. Texts of strangers are cut short.
func (r *refusals) add(one Refusal) {
	one.Target, one.Why = audit.Clean(one.Target), audit.Clean(one.Why)
	r.mu.Lock()
	defer r.mu.Unlock()
	one.Times = 1
	before := slices.IndexFunc(r.all, func(x Refusal) bool {
		return x.User == one.User && x.Source == one.Source && x.Command == one.Command && x.Target == one.Target && x.Why == one.Why
	})
	switch {
	case before >= 0:
		one.Times += r.all[before].Times
		r.all = slices.Delete(r.all, before, before+1)
	case len(r.all) == maxRefusals:
		r.all = slices.Delete(r.all, 0, 1)
	}
	r.all = append(r.all, one)
}

// refuses remembers what the wish was for, and why it was not granted.
func (p petition) refuses(target string, why error) {
	p.caller.server.refusals.add(Refusal{
		Time: time.Now(), User: p.caller.user, Source: p.from.Addr(), Command: p.command, Target: target, Why: why.Error(),
	})
}

// Refusals gives the last things that somebody was not let do, the oldest first.
func (s *Server) Refusals() []Refusal {
	s.refusals.mu.Lock()
	defer s.refusals.mu.Unlock()
	return slices.Clone(s.refusals.all)
}
