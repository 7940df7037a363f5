package server

import (
	"net/netip"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
)

// recordLevel is how much of a flow goes on record. What is refused does as a whole,
// whatever a rule says.
type recordLevel int

const (
	recordOpen    recordLevel = iota // no rule has decided yet
	recordNone                       // nothing
	recordSummary                    // all but where it goes
	recordFull                       // all that is known
)

// levelOf is what a rule that allows wants; nil is no rule.
func levelOf(r *policy.Rule) recordLevel {
	if r == nil || !r.Allow {
		return recordFull
	}
	switch r.Limit.Record {
	case "none":
		return recordNone
	case "summary":
		return recordSummary
	}
	return recordFull
}

// conceal takes out what a record of the level does not say.
func (l recordLevel) conceal(r *audit.Record) {
	if l == recordNone || l == recordSummary {
		r.Name, r.Address, r.Host = "", netip.Addr{}, ""
	}
}

// recordBy has a rule that allows the flow say how much of it goes on record. Of those of an
// association's destinations the one counts that wants most. f.mu is held.
func (f *flow) recordBy(r *policy.Rule) {
	level := levelOf(r)
	if f.talks != nil {
		level = max(level, f.level)
	}
	f.level = level
	if level != recordNone && f.entry != nil {
		f.entry.Open()
	}
}

// undecidedLevel is how much goes on record of what a rule may decide, but has not: something,
// though not where it goes if the rule wants that to be a secret.
func undecidedLevel(r *policy.Rule) recordLevel { return max(levelOf(r), recordSummary) }

// recordLevel is how much of the flow goes on record.
func (f *flow) recordLevel() recordLevel {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.level != recordOpen {
		return f.level
	}
	return undecidedLevel(f.rule)
}
