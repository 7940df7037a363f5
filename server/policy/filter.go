package policy

import (
	"net/netip"
	"slices"
)

// Effect is what a packet filter makes of a rule.
type Effect byte

const (
	// Drop drops what the rule matches, and what it may match as far as packets show.
	Drop Effect = iota

	// Accept accepts what the rule matches.
	Accept

	// Skip leaves it to the rules behind: whether the rule allows something cannot be seen.
	Skip
)

// Filter is what a packet filter can make of one rule. What it accepts in the order of
// the rules, the policy allows; what no rule accepts is to be dropped.
type Filter struct {
	Rule     *Rule
	Effect   Effect
	Senders  []int         // those of Filters' whom the rule may be about
	Commands []string      // connect, associate and ping
	To       []Destination // all of them have to fit
	Ports    []PortRange   // none: all
	NotPorts []PortRange
	Unseen   []string // clauses and limits that a packet filter cannot heed
}

// Destination is networks that a destination has to be in, which are all if In is nil, and
// others that it must not be in.
type Destination struct{ In, NotIn []netip.Prefix }

// PortRange is ports from First to Last.
type PortRange struct{ First, Last uint16 }

// filtered are the commands that packets show.
var filtered = [...]string{"connect", "associate", "ping"}

// Filters gives what a filter of packets can make of the rules, for senders whose packets
// it knows. It leaves out rules that match none. Packets have addresses and no names, show
// neither when rules look at a clock what that says nor what is spoken, nor where a
// tunnel's packets have come from.
func (p *Policy) Filters(senders []Who) (all []Filter) {
	callers := make([]*Caller, len(senders))
	for i, who := range senders {
		callers[i] = p.For(who)
	}
	for _, r := range p.rules {
		f := Filter{Rule: r}
		for i, c := range callers {
			if r.mayBeAbout(c) {
				f.Senders = append(f.Senders, i)
			}
		}
		for _, command := range filtered {
			if passes(r.values[commands], command) && !(command == "ping" && !r.ports.pass(func(p ports) bool { return p.has(0) })) {
				f.Commands = append(f.Commands, command)
			}
		}
		if len(f.Senders) == 0 || len(f.Commands) == 0 || !passes(r.values[asked], "address") || len(r.names.is) > 0 {
			continue
		}
		if !f.destinations(r) {
			continue
		}
		r.ports.each(func(p ports, not bool) {
			if not {
				f.NotPorts = append(f.NotPorts, PortRange{p.from, p.to})
			} else {
				f.Ports = append(f.Ports, PortRange{p.from, p.to})
			}
		})
		f.Unseen = r.unseen()
		f.Effect = r.effect(len(f.Unseen) > 0)
		all = append(all, f)
	}
	return all
}

// mayBeAbout judges what is known of a sender.
func (r *Rule) mayBeAbout(c *Caller) bool {
	for kind := range callerKinds {
		if kind != ciphers && !passes(r.values[kind], valuesOf(kind, c, nil)...) {
			return false
		}
	}
	return passes(r.values[dialects], "wireguard")
}

// destinations says where a rule's packets go to. It tells whether they can go anywhere.
func (f *Filter) destinations(r *Rule) bool {
	add := func(is, not []netip.Prefix, any bool) bool {
		if !any && len(is) == 0 {
			return false
		}
		if len(is)+len(not) > 0 {
			f.To = append(f.To, Destination{is, not})
		}
		return true
	}
	networksOf := func(lists []namedList) (all []netip.Prefix) {
		for _, l := range lists {
			all = slices.AppendSeq(all, l.networks.All())
		}
		return all
	}
	return add(r.networks.is, r.networks.not, len(r.networks.is) == 0) &&
		add(networksOf(r.lists.is), networksOf(r.lists.not), len(r.lists.is) == 0)
}

// unseen gives the clauses and limits that no filter of packets can heed.
func (r *Rule) unseen() (all []string) {
	for key, has := range map[string]bool{
		"ciphers": !r.values[ciphers].empty(), "from": !r.from.empty(), "protocols": !r.values[protocols].empty(), "signs": !r.values[signs].empty(),
		"days": !r.days.empty(), "hours": !r.hours.empty(), "when": r.when != nil,
	} {
		if has {
			all = append(all, key)
		}
	}
	l := r.Limit
	for key, has := range map[string]bool{
		"quota_per_day": l.QuotaPerDay > 0, "quota_per_month": l.QuotaPerMonth > 0, "max_flows": l.MaxFlows > 0, "idle": l.Idle > 0, "total": l.Total > 0,
		"require_ipsec": l.RequireIPsec,
	} {
		if has {
			all = append(all, key)
		}
	}
	slices.Sort(all)
	return all
}

// effect is what a filter makes of a rule so that it never accepts more than the policy. A rule
// that would limit something must not leave it to others, which may not.
func (r *Rule) effect(unseen bool) Effect {
	l := r.Limit
	limited := l.QuotaPerDay+l.QuotaPerMonth+l.CeilingUp+l.CeilingDown > 0 || l.MaxFlows > 0 || l.Idle > 0 || l.Total > 0 || l.RequireIPsec
	switch {
	case !r.Allow || unseen && limited:
		return Drop
	case unseen:
		return Skip
	}
	return Accept
}
