package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Each index answers for one kind of clause: which rules does a value pass in? It is
// made once, and asked without a lock.

// tallied is how the rules' words come in for values that are compared as a whole.
type tallied[T comparable] struct {
	clauses
	tallies map[T]tally
}

func newTallied[T comparable](s *sets) tallied[T] {
	return tallied[T]{clauses: newClauses(s), tallies: make(map[T]tally)}
}

func (x *tallied[T]) add(rule int, w words[T]) {
	if w.empty() {
		return
	}
	x.enter(rule, len(w.is))
	w.each(func(word T, not bool) {
		t := x.tallies[word]
		t.note(x.sets, rule, not)
		x.tallies[word] = t
	})
}

// valueIndex is for words that a value equals or does not.
type valueIndex struct {
	tallied[string]
	answers map[string]*set
	other   *set // of values that no rule has a word for
}

func newValueIndex(s *sets) *valueIndex { return &valueIndex{tallied: newTallied[string](s)} }

func (x *valueIndex) ready() {
	x.answers = make(map[string]*set, len(x.tallies))
	for v, t := range x.tallies {
		x.answers[v] = x.of(x.pass(t))
	}
	x.other = x.of(x.pass(tally{}))
}

func (x *valueIndex) find(value string) *set {
	if s := x.answers[value]; s != nil {
		return s
	}
	return x.other
}

// together gives the rules that somebody passes in who has several values at once.
func (x *valueIndex) together(values ...string) *set {
	var t tally
	for _, v := range values {
		t.join(x.sets, x.tallies[v])
	}
	return newSet(x.pass(t))
}

// networkIndex is for networks.
type networkIndex struct {
	tallied[netip.Prefix]
	table bart.Fast[*set]
	other *set // of addresses in no network of a rule's
}

func newNetworkIndex(s *sets) *networkIndex {
	return &networkIndex{tallied: newTallied[netip.Prefix](s)}
}

// ready lets each network have what is said of those that it is in.
func (x *networkIndex) ready() {
	prefixes := make([]netip.Prefix, 0, len(x.tallies))
	for p := range x.tallies {
		prefixes = append(prefixes, p)
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	var wider bart.Table[netip.Prefix] // those that have been
	for _, p := range prefixes {
		t := x.tallies[p]
		if parent, ok := wider.LookupPrefix(p); ok {
			t.join(x.sets, x.tallies[parent])
			x.tallies[p] = t
		}
		wider.Insert(p, p)
		x.table.Insert(p, x.of(x.pass(t)))
	}
	x.other = x.of(x.pass(tally{}))
	x.tallies = nil
}

func (x *networkIndex) find(a netip.Addr) *set {
	if s, ok := x.table.Lookup(a); ok {
		return s
	}
	return x.other
}

// nameIndex is a trie of labels, from the last one on.
type nameIndex struct {
	clauses
	root  nameNode
	other *set // of what is no name
}

type nameNode struct {
	labels map[string]*nameNode

	here, under tally // of the name itself, and of it and all below it
	exact       *set  // for the name itself
	below       *set  // for those below it that have no node
}

func newNameIndex(s *sets) *nameIndex { return &nameIndex{clauses: newClauses(s)} }

func (x *nameIndex) add(rule int, w words[pattern]) {
	if w.empty() {
		return
	}
	x.enter(rule, len(w.is))
	w.each(func(p pattern, not bool) {
		switch {
		case p.kind == exact:
			x.node(p.text).here.note(x.sets, rule, not)
		case p.kind == below:
			x.node(p.text).under.note(x.sets, rule, not)
		case !not:
			// More names than the glob fits; the rule itself has a closer look.
			x.node(p.tail()).under.note(x.sets, rule, not)
		}
	})
}

// node gives the node of a name, which it makes if need be.
func (x *nameIndex) node(name string) *nameNode {
	n := &x.root
	for name != "" {
		var label string
		name, label = lastLabel(name)
		next := n.labels[label]
		if next == nil {
			next = new(nameNode)
			if n.labels == nil {
				n.labels = make(map[string]*nameNode)
			}
			n.labels[label] = next
		}
		n = next
	}
	return n
}

func lastLabel(name string) (rest, label string) {
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '.' {
			return name[:i], name[i+1:]
		}
	}
	return "", name
}

func (x *nameIndex) ready() {
	x.inherit(&x.root, tally{})
	x.other = x.of(x.pass(tally{}))
}

func (x *nameIndex) inherit(n *nameNode, above tally) {
	n.under.join(x.sets, above)
	n.here.join(x.sets, n.under)
	n.exact, n.below = x.of(x.pass(n.here)), x.of(x.pass(n.under))
	for _, next := range n.labels {
		x.inherit(next, n.under)
	}
	n.here, n.under = tally{}, tally{}
}

// find answers for a canonical name, or for none.
func (x *nameIndex) find(name string) *set {
	if name == "" {
		return x.other
	}
	n := &x.root
	for name != "" {
		var label string
		name, label = lastLabel(name)
		next := n.labels[label]
		if next == nil {
			return n.below
		}
		n = next
	}
	return n.exact
}

// portIndex knows the answer for each port.
type portIndex struct {
	clauses
	ranges  []portRange
	answers []*set
	at      []uint16 // of each port, in sets
}

type portRange struct {
	ports
	rule int
	not  bool
}

func newPortIndex(s *sets) *portIndex { return &portIndex{clauses: newClauses(s)} }

func (x *portIndex) add(rule int, w words[ports]) {
	if w.empty() {
		return
	}
	x.enter(rule, len(w.is))
	w.each(func(p ports, not bool) { x.ranges = append(x.ranges, portRange{p, rule, not}) })
}

// ready goes through the ports at which an answer may begin that differs from the one
// before.
func (x *portIndex) ready() {
	if !x.used {
		return
	}
	starts := []int{0}
	for _, r := range x.ranges {
		starts = append(starts, int(r.from), int(r.to)+1)
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	x.at = make([]uint16, 1<<16)
	numbers := make(map[*set]uint16)
	for i, start := range starts {
		end := 1 << 16
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		if start == end {
			break
		}
		s := x.of(x.pass(x.tally(uint16(start))))
		number, known := numbers[s]
		if !known {
			number = uint16(len(x.answers))
			numbers[s] = number
			x.answers = append(x.answers, s)
		}
		for port := start; port < end; port++ {
			x.at[port] = number
		}
	}
	x.ranges = nil
}

func (x *portIndex) tally(port uint16) (t tally) {
	for _, r := range x.ranges {
		if r.has(port) {
			t.note(x.sets, r.rule, r.not)
		}
	}
	return t
}

func (x *portIndex) find(port uint16) *set { return x.answers[x.at[port]] }
