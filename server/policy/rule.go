package policy

import (
	"net/netip"
	"slices"
	"time"
)

// Rule is one rule of a policy. It does not change.
type Rule struct {
	Name  string
	File  string
	Line  int // from 1
	Allow bool
	Limit Limit // of what it allows

	number   int
	values   [valueKinds]words[string]
	from     words[netip.Prefix]
	networks words[netip.Prefix]
	names    words[pattern]
	ports    words[ports]
	lists    words[namedList]
	days     words[weekdays]
	hours    words[hours]
	zone     *time.Location
	when     *expression // nil: it has none
}

// A valueKind is a clause whose words stand for themselves.
type valueKind int

const (
	users valueKind = iota
	groups
	devices
	doors
	methods
	protections
	ciphers
	dialects
	commands
	asked
	protocols
	signs
	valueKinds
)

// callerKinds is how many kinds concern who asks. Those behind concern what he asks for.
const callerKinds = dialects

var valueKeys = [valueKinds]string{
	users: "users", groups: "groups", devices: "devices", doors: "doors", methods: "methods", protections: "protection",
	ciphers: "ciphers", dialects: "dialects", commands: "commands", asked: "asked", protocols: "protocols", signs: "signs",
}

// truth is what can be said of a clause, or of several: of these the greatest counts.
type truth byte

const (
	yes truth = iota
	needsProtocol
	needsAddress
	no
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// aimed tells whether the rule depends on what is asked for.
func (r *Rule) aimed() bool {
	return !r.names.empty() || !r.networks.empty() || !r.ports.empty() || !r.lists.empty() || !r.values[asked].empty() || r.when != nil && r.when.aimed
}

// listens tells whether the rule has a clause about what is spoken.
func (r *Rule) listens() bool { return !r.values[protocols].empty() || !r.values[signs].empty() }

// timed tells whether what the rule says changes with time.
func (r *Rule) timed() bool {
	return !r.days.empty() || !r.hours.empty() || r.when != nil && r.when.timed
}

// closer tells whether the indexes say of more requests than there are that the rule
// may match.
func (r *Rule) closer() bool {
	isGlob := func(p pattern) bool { return p.kind == glob }
	return r.timed() || r.when != nil || !r.lists.empty() || slices.ContainsFunc(r.names.is, isGlob) || slices.ContainsFunc(r.names.not, isGlob)
}

// look judges what the indexes leave open.
func (r *Rule) look(c *Caller, q *Request) truth {
	if !r.inTime(q) || !r.passesName(q) {
		return no
	}
	said := r.passesLists(q)
	if said != no && r.when != nil {
		said = max(said, r.when.judge(r, c, q))
	}
	return said
}

// lookAround is look for what does not depend on what is asked for.
func (r *Rule) lookAround(c *Caller, q *Request) truth {
	said := truthOf(r.inTime(q))
	if r.when != nil && !r.when.aimed {
		said = max(said, r.when.judge(r, c, q))
	}
	return said
}

func (r *Rule) inTime(q *Request) bool {
	if r.days.empty() && r.hours.empty() {
		return true
	}
	now := q.Time.In(r.zone)
	return r.days.pass(func(d weekdays) bool { return d.has(now) }) && r.hours.pass(func(h hours) bool { return h.has(now) })
}

func (r *Rule) passesName(q *Request) bool {
	return r.names.pass(func(p pattern) bool { return q.Name != "" && p.fits(q.Name) })
}

// namedList is a list of the file's.
type namedList struct {
	*List
	name string
}

// passesLists judges the names and addresses that are on lists.
func (r *Rule) passesLists(q *Request) truth {
	if r.lists.empty() {
		return yes
	}
	if r.lists.pass(func(l namedList) bool { return l.has(q) }) {
		if q.Addr.IsValid() || !slices.ContainsFunc(r.lists.not, func(l namedList) bool { return l.Networks() > 0 }) {
			return yes
		}
		return needsAddress
	}
	if q.Addr.IsValid() || slices.ContainsFunc(r.lists.not, func(l namedList) bool { return l.has(q) }) ||
		!slices.ContainsFunc(r.lists.is, func(l namedList) bool { return l.Networks() > 0 }) {
		return no
	}
	return needsAddress
}

func (l namedList) has(q *Request) bool {
	return q.Name != "" && l.HasName(q.Name) || q.Addr.IsValid() && l.HasAddr(q.Addr)
}

// step is what a rule says of one of its clauses.
type step struct {
	key  string
	said truth
}

// aimedKeys are clauses that depend on what is asked for.
var aimedKeys = [...]string{"asked", "names", "ports", "networks", "lists"}

// steps judges the clauses of a rule one after the other, the short way round: without
// an index. Those that it does not have are left out.
func (r *Rule) steps(c *Caller, q *Request) []step {
	var all []step
	aimed := func(key string) bool { return slices.Contains(aimedKeys[:], key) || key == "when" && r.when.aimed }
	add := func(key string, has bool, judge func() truth) {
		switch {
		case has && q.Anywhere && aimed(key):
			all = append(all, step{key, needsAddress})
		case has:
			all = append(all, step{key, judge()})
		}
	}
	for kind, w := range r.values {
		add(valueKeys[kind], !w.empty(), func() truth {
			if (valueKind(kind) == protocols || valueKind(kind) == signs) && q.Protocol == "" {
				return needsProtocol
			}
			return truthOf(passes(w, valuesOf(valueKind(kind), c, q)...))
		})
	}
	add("from", !r.from.empty(), func() truth { return truthOf(r.from.pass(func(p netip.Prefix) bool { return p.Contains(c.who.From) })) })
	add("names", !r.names.empty(), func() truth { return truthOf(r.passesName(q)) })
	add("ports", !r.ports.empty(), func() truth { return truthOf(r.ports.pass(func(p ports) bool { return p.has(q.Port) })) })
	now := q.Time.In(r.zone)
	add("days", !r.days.empty(), func() truth { return truthOf(r.days.pass(func(d weekdays) bool { return d.has(now) })) })
	add("hours", !r.hours.empty(), func() truth { return truthOf(r.hours.pass(func(h hours) bool { return h.has(now) })) })
	add("networks", !r.networks.empty(), func() truth {
		if !q.Addr.IsValid() {
			return needsAddress
		}
		return truthOf(r.networks.pass(func(p netip.Prefix) bool { return p.Contains(q.Addr) }))
	})
	add("lists", !r.lists.empty(), func() truth { return r.passesLists(q) })
	add("when", r.when != nil, func() truth { return r.when.judge(r, c, q) })
	return all
}

// valuesOf gives what a clause compares its words with.
func valuesOf(kind valueKind, c *Caller, q *Request) []string {
	switch kind {
	case users:
		return []string{c.who.User}
	case groups:
		return c.who.Groups
	case devices:
		return []string{c.who.Device}
	case doors:
		return []string{c.who.Door}
	case methods:
		return []string{c.who.Method}
	case protections:
		return c.who.Protection
	case ciphers:
		return []string{c.who.Cipher}
	case dialects:
		return []string{q.Dialect}
	case commands:
		return []string{q.Command}
	case asked:
		return []string{q.asked()}
	case protocols:
		if q.Carries != "" {
			return []string{q.Protocol, q.Carries}
		}
		return []string{q.Protocol}
	case signs:
		if len(q.Signs) > 0 {
			return q.Signs
		}
		return []string{"none"}
	}
	return nil
}
