package policy

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Policy is a file of rules that is ready for decisions. It does not change, and may be
// used by many at once.
type Policy struct {
	file     string
	rules    []*Rule
	groups   map[string][]string // of users
	expected []expectation
	timed    bool

	sets     *sets
	values   [valueKinds]*valueIndex
	from     *networkIndex
	networks *networkIndex
	names    *nameIndex
	ports    *portIndex

	closer set // rules that have a say after the indexes
	aimed  set // rules that depend on what is asked for

	listens  bool // a rule depends on the protocol
	discreet bool // a rule keeps something off the records
	requires bool // a rule wants the path to be protected by IPsec
}

// Rules gives all rules in their order.
func (p *Policy) Rules() []*Rule { return slices.Clone(p.rules) }

// Timed tells whether a decision may change only because time goes by. It does so at
// full minutes.
func (p *Policy) Timed() bool { return p.timed }

// Listens tells whether a decision may depend on the application protocol.
func (p *Policy) Listens() bool { return p.listens }

// Discreet tells whether a rule keeps something of what it allows off the records.
func (p *Policy) Discreet() bool { return p.discreet }

// compile makes the indexes.
func (p *Policy) compile() {
	p.sets = &sets{rules: len(p.rules)}
	for kind := range p.values {
		p.values[kind] = newValueIndex(p.sets)
	}
	p.from, p.networks = newNetworkIndex(p.sets), newNetworkIndex(p.sets)
	p.names, p.ports = newNameIndex(p.sets), newPortIndex(p.sets)
	p.closer, p.aimed = p.sets.empty(), p.sets.empty()
	for i, r := range p.rules {
		r.number = i
		p.enter(r)
	}
	for _, x := range p.values {
		x.ready()
	}
	p.from.ready()
	p.networks.ready()
	p.names.ready()
	p.ports.ready()
	p.sets.known = nil // no more are to be shared
}

func (p *Policy) enter(r *Rule) {
	for kind, w := range r.values {
		p.values[kind].add(r.number, w)
	}
	p.from.add(r.number, r.from)
	p.networks.add(r.number, r.networks)
	p.names.add(r.number, r.names)
	p.ports.add(r.number, r.ports)
	if r.closer() {
		p.closer.add(r.number)
	}
	if r.aimed() {
		p.aimed.add(r.number)
	}
	p.listens = p.listens || r.listens() || r.when != nil && r.when.protocol
	p.timed = p.timed || r.timed()
	p.discreet = p.discreet || r.Limit.Record == "none" || r.Limit.Record == "summary"
	p.requires = p.requires || r.Limit.RequireIPsec
}

// Who is who makes requests, and how they come.
type Who struct {
	User       string
	Groups     []string // beside those of the policy's file
	Device     string
	From       netip.Addr
	Door       string
	Method     string   // by which he has proved who he is
	Protection []string // of the path; several layers may protect it. What a word implies need not be said
	Cipher     string
}

// Caller is somebody as a policy sees him. It may be used by many at once.
type Caller struct {
	policy *Policy
	who    Who
	rules  [len(commandWords) + 1]set // that may match, by command; the last is for others

	protected bool // by IPsec
}

// commandWords are the commands, each at its number.
var commandWords = [...]string{"connect", "bind", "associate", "resolve", "ping"}

func commandNumber(word string) int {
	if i := slices.Index(commandWords[:], word); i >= 0 {
		return i
	}
	return len(commandWords)
}

// Protected tells whether IPsec protects the path by which he comes.
func (c *Caller) Protected() bool { return c.protected }

// holds tells whether the path can be held to IPsec for a command: that of a WireGuard guest
// never can, and at a door only connections can.
func (c *Caller) holds(command string) bool {
	switch c.who.Door {
	case "", "session":
		return true
	case "wireguard":
		return false
	}
	return command != "associate"
}

// Wary tells whether a rule allows something only while it does.
func (c *Caller) Wary() bool { return c.policy.requires }

// For looks up what the rules say of who makes requests, so that this need not be done
// for each of them.
func (p *Policy) For(who Who) *Caller {
	who.From = who.From.Unmap().WithZone("")
	who.Groups = slices.Concat(who.Groups, p.groups[who.User])
	who.Protection = implied(who.Protection)
	c := &Caller{policy: p, who: who, protected: slices.Contains(who.Protection, "ipsec")}
	rules := p.sets.full()
	for kind := range callerKinds {
		rules.and(p.values[kind].together(valuesOf(kind, c, nil)...))
	}
	rules.and(p.from.find(who.From))
	for i := range c.rules {
		word := "" // which no rule has
		if i < len(commandWords) {
			word = commandWords[i]
		}
		c.rules[i] = slices.Clone(rules)
		c.rules[i].and(p.values[commands].find(word))
	}
	return c
}

// implied gives the words for protection with those that they imply: of a cipher of
// ESP its name without the length of the key, and "ipsec"; and what is sealed is signed.
func implied(protection []string) (all []string) {
	for _, word := range protection {
		all = append(all, word)
		if word == "gss-confidentiality" {
			all = append(all, "gss-integrity")
		}
		if !strings.HasPrefix(word, "ipsec:") {
			continue
		}
		for i := strings.LastIndexAny(word, ":-+"); i >= 0; i = strings.LastIndexAny(word[:i], ":-+") {
			all = append(all, word[:i])
		}
	}
	if len(all) == 0 {
		return []string{"none"}
	}
	return all
}

// Request is what somebody asks for, as far as it is known.
type Request struct {
	Dialect string
	Command string

	// Name is the name asked for, as [CanonicalName] spells it; empty if an address was
	// asked for. A name that is an address is none.
	Name string

	// Addr is the address asked for, or that the name has; invalid as long as that is
	// not known. It is neither mapped nor has it a zone. Where a name has several, each has a decision of its own.
	Addr netip.Addr
	Port uint16

	// Anywhere tells that none of these is known yet, as it is before the first datagram
	// and before a peer comes. They are not looked at.
	Anywhere bool

	Protocol string // empty as long as it is not known
	Carries  string // another protocol in Protocol

	// Signs that something is other than it seems, known together with Protocol:
	// "other-host", "misplaced" and "doubtful".
	Signs []string

	Time time.Time
}

func (q *Request) asked() string {
	if q.Name != "" {
		return "name"
	}
	return "address"
}

// Outcome is what comes of a request.
type Outcome byte

// The outcomes.
const (
	Deny          Outcome = iota
	Allow                 // whatever else becomes known
	NeedsAddress          // nothing can be said before the address is known
	NeedsProtocol         // nothing can be said before the protocol is known
)

func (o Outcome) String() string {
	return [...]string{"deny", "allow", "needs address", "needs protocol"}[o]
}

// Decision is what a policy says of a request.
type Decision struct {
	Outcome Outcome

	// Rule has decided, or is the first that may do so later. nil: no rule matches, and
	// nothing is allowed that no rule allows.
	Rule *Rule

	// Unprotected tells that it is denied only because Rule requires IPsec, which does not
	// protect the path, or not for certain.
	Unprotected bool

	// Unheld tells that IPsec does protect the path, but that nothing can hold it to that.
	Unheld bool
}

// Decide decides by the first rule that matches. It allows nothing that something which is
// not known yet could forbid, and denies only what nothing can allow any more.
func (c *Caller) Decide(q Request) Decision {
	p := c.policy
	var room [9]set
	picked := append(room[:0], c.rules[commandNumber(q.Command)])
	if p.names.used && !q.Anywhere {
		picked = append(picked, p.names.find(q.Name))
	}
	if p.networks.used && q.Addr.IsValid() && !q.Anywhere {
		picked = append(picked, p.networks.find(q.Addr))
	}
	if p.ports.used && !q.Anywhere {
		picked = append(picked, p.ports.find(q.Port))
	}
	if x := p.values[dialects]; x.used {
		picked = append(picked, x.find(q.Dialect))
	}
	if x := p.values[asked]; x.used && !q.Anywhere {
		picked = append(picked, x.find(q.asked()))
	}
	if x := p.values[signs]; x.used && q.Protocol != "" {
		picked = append(picked, x.together(valuesOf(signs, c, &q)...))
	}
	if x := p.values[protocols]; x.used && q.Carries != "" {
		picked = append(picked, x.together(q.Protocol, q.Carries))
	} else if x.used && q.Protocol != "" {
		picked = append(picked, x.find(q.Protocol))
	}
	s := search{protected: c.protected && c.holds(q.Command)}
	eachCommon(picked, func(i int) bool {
		r := p.rules[i]
		return !s.ends(r, c.judge(r, &q))
	})
	d := s.decision()
	d.Unheld = d.Unprotected && c.protected
	return d
}

// judge judges a rule that passes what the indexes know.
func (c *Caller) judge(r *Rule, q *Request) truth {
	p := c.policy
	if q.Anywhere && p.aimed.has(r.number) {
		return max(needsAddress, r.lookAround(c, q))
	}
	said := yes
	if p.closer.has(r.number) {
		said = r.look(c, q)
	}
	if q.Protocol == "" && r.listens() {
		said = max(said, needsProtocol)
	}
	if !q.Addr.IsValid() && !r.networks.empty() {
		said = max(said, needsAddress)
	}
	return said
}

// search goes through rules in their order.
type search struct {
	protected bool // by IPsec

	rule *Rule // that matches

	open    *Rule // the first that may match
	said    truth // of it; yes if there is none
	allowed bool  // one that may match would allow it
	lacking *Rule // the first that would, if IPsec protected the path
}

// ends takes what is said of the next rule, and tells whether it is the last one that
// matters.
func (s *search) ends(r *Rule, said truth) bool {
	switch said {
	case no:
		return false
	case yes:
		s.rule = r
		return true
	}
	if said > s.said {
		s.open, s.said = r, said
	}
	s.allowed = s.allowed || s.allows(r)
	if s.lacking == nil && r.Allow && !s.allows(r) {
		s.lacking = r
	}
	return false
}

// allows tells whether a rule allows what it matches.
func (s *search) allows(r *Rule) bool { return r.Allow && (s.protected || !r.Limit.RequireIPsec) }

func (s *search) decision() Decision {
	denied := s.rule == nil || !s.allows(s.rule)
	switch {
	case s.open != nil && (s.allowed || !denied):
		return Decision{Outcome: [...]Outcome{needsAddress: NeedsAddress, needsProtocol: NeedsProtocol}[s.said], Rule: s.open}
	case denied && s.lacking != nil:
		return Decision{Outcome: Deny, Rule: s.lacking, Unprotected: true}
	case denied:
		return Decision{Outcome: Deny, Rule: s.rule, Unprotected: s.rule != nil && s.rule.Allow}
	}
	return Decision{Outcome: Allow, Rule: s.rule}
}
