package server

import (
	"errors"
	"time"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel/socks"
)

var (
	// errExpired is in the reasons for which limits of time end a flow.
	errExpired = errors.New("its time is over")

	errRuleFlows = &socks.Error{Code: socks.NotAllowed, Err: errors.New("the user has too many flows by the rule open")}
)

// ruleFlows is what the flows of a user by a rule are counted as. A rule keeps its name
// when the policy is read again.
type ruleFlows struct{ user, rule string }

// limits are what a flow keeps to, because of the rule that allows it. The flow's mu
// guards them.
type limits struct {
	rule  string
	limit policy.Limit
	total *time.Timer
	idle  *time.Timer
	over  bool // the flow is
}

// none tells whether the flow keeps to none.
func (l *limits) none() bool {
	return l.limit.MaxFlows == 0 && l.limit.Total == 0 && l.limit.Idle == 0
}

// keepTo has the flow keep to the limits of a rule that allows it, in place of those of
// another one; nil is a rule without any. The error says that it cannot. f.mu is held.
func (f *flow) keepTo(r *policy.Rule) error {
	var rule string
	var limit policy.Limit
	if r != nil {
		rule, limit = r.Name, r.Limit
	}
	l := &f.limits
	if l.over || l.rule == rule && l.limit == limit {
		return nil
	}
	counted := l.limit.MaxFlows > 0
	if n := limit.MaxFlows; n > 0 && !(counted && l.rule == rule) {
		if !f.caller.server.takeRule(ruleFlows{f.caller.user, rule}, n) {
			return errRuleFlows
		}
	}
	if counted && (l.rule != rule || limit.MaxFlows == 0) {
		f.caller.server.dropRule(ruleFlows{f.caller.user, l.rule})
	}
	l.stop()
	l.rule, l.limit = rule, limit
	if d := limit.Total; d > 0 {
		l.total = time.AfterFunc(time.Until(f.began.Add(d)), func() { f.cut(errExpired) })
	}
	if d := limit.Idle; d > 0 {
		f.watchIdle(d, f.traffic())
	}
	return nil
}

// watchIdle ends the flow when nothing has passed for so long. f.mu is held.
func (f *flow) watchIdle(d time.Duration, before int64) {
	f.limits.idle = time.AfterFunc(d, func() {
		now := f.traffic()
		if now == before {
			f.cut(errExpired)
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.limits.over && f.limits.limit.Idle == d {
			f.watchIdle(d, now)
		}
	})
}

// traffic changes with everything that passes.
func (f *flow) traffic() int64 {
	return f.up.Load() + f.down.Load() + f.sent.Load() + f.received.Load()
}

// release ends the flow's limits with it.
func (f *flow) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := &f.limits
	l.over = true
	l.stop()
	f.still.stop()
	f.setShelter(false)
	if l.limit.MaxFlows > 0 {
		f.caller.server.dropRule(ruleFlows{f.caller.user, l.rule})
	}
}

func (l *limits) stop() {
	for _, t := range []*time.Timer{l.total, l.idle} {
		if t != nil {
			t.Stop()
		}
	}
}

// takeRule counts a flow by a rule, if there may be one more.
func (s *Server) takeRule(r ruleFlows, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ruleFlows[r] >= limit {
		return false
	}
	s.ruleFlows[r]++
	return true
}

func (s *Server) dropRule(r ruleFlows) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ruleFlows[r]--; s.ruleFlows[r] == 0 {
		delete(s.ruleFlows, r)
	}
}
