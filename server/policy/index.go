package policy

import (
	"cmp"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

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
	answers map[string]set
	other   set // of values that no rule has a word for
}

func newValueIndex(s *sets) *valueIndex { return &valueIndex{tallied: newTallied[string](s)} }

func (x *valueIndex) ready() {
	x.answers = make(map[string]set, len(x.tallies))
	for v, t := range x.tallies {
		x.answers[v] = x.of(x.pass(t))
	}
	x.other = x.of(x.pass(tally{}))
}

func (x *valueIndex) find(value string) set {
	if s, known := x.answers[value]; known {
		return s
	}
	return x.other
}

// together gives the rules that somebody passes in who has several values at once.
func (x *valueIndex) together(values ...string) set {
	var t tally
	for _, v := range values {
		t.join(x.sets, x.tallies[v])
	}
	return x.pass(t)
}

// networkIndex is for networks.
type networkIndex struct {
	tallied[netip.Prefix]
	table bart.Fast[set]
	other set // of addresses in no network of a rule's
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

func (x *networkIndex) find(a netip.Addr) set {
	if s, ok := x.table.Lookup(a); ok {
		return s
	}
	return x.other
}

// nameIndex knows the names in rules and those above them, each of which it finds by its
// hash.
type nameIndex struct {
	clauses
	tallies map[string]*nameTally
	table   []*nameNode // at the place of the name's hash, or behind where there is room
	shift   int         // from a hash of 64 bits to a place
	root    *nameNode   // above all names
	other   set         // of what is no name
}

// nameTally is for a name itself, and for it and all below it.
type nameTally struct{ here, under tally }

type nameNode struct {
	name  string
	hash  uint64
	leaf  bool // there are none below it
	exact set  // for the name itself
	below set  // for those below it that have no node
}

func newNameIndex(s *sets) *nameIndex {
	return &nameIndex{clauses: newClauses(s), tallies: make(map[string]*nameTally)}
}

func (x *nameIndex) add(rule int, w words[pattern]) {
	if w.empty() {
		return
	}
	x.enter(rule, len(w.is))
	w.each(func(p pattern, not bool) {
		switch {
		case p.kind == exact:
			x.tally(p.text).here.note(x.sets, rule, not)
		case p.kind == below:
			x.tally(p.text).under.note(x.sets, rule, not)
		case !not:
			// More names than the glob fits; the rule itself has a closer look.
			x.tally(p.tail()).under.note(x.sets, rule, not)
		}
	})
}

func (x *nameIndex) tally(name string) *nameTally {
	t := x.tallies[name]
	if t == nil {
		t = new(nameTally)
		x.tallies[name] = t
	}
	return t
}

// ready lets each name have what is said of those above it, which come before it.
func (x *nameIndex) ready() {
	above := make(map[string]bool)
	for name := range maps.Clone(x.tallies) {
		for name != "" {
			name = parent(name)
			x.tally(name)
			above[name] = true
		}
	}
	x.tally("")
	names := slices.SortedFunc(maps.Keys(x.tallies), func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	size := bits.Len(uint(2 * len(names)))
	x.table, x.shift = make([]*nameNode, 1<<size), 64-size
	for _, name := range names {
		t := x.tallies[name]
		if name != "" {
			t.under.join(x.sets, x.tallies[parent(name)].under)
		}
		t.here.join(x.sets, t.under)
		x.insert(&nameNode{name: name, leaf: !above[name], exact: x.of(x.pass(t.here)), below: x.of(x.pass(t.under))})
	}
	x.root = x.node("", 0)
	x.other = x.of(x.pass(tally{}))
	x.tallies = nil
}

// parent gives the name above one, which is not empty.
func parent(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	return rest
}

// nameHash is made from the end of a name on, so that it grows from that of the names
// above.
func nameHash(h uint64, c byte) uint64 { return h*31 + uint64(c) }

// insert enters a node. There is room.
func (x *nameIndex) insert(n *nameNode) {
	for i := len(n.name) - 1; i >= 0; i-- {
		n.hash = nameHash(n.hash, n.name[i])
	}
	at := x.place(n.hash)
	for x.table[at] != nil {
		at = (at + 1) & (len(x.table) - 1)
	}
	x.table[at] = n
}

func (x *nameIndex) place(hash uint64) int { return int(hash * 0x9e3779b97f4a7c15 >> x.shift) }

// node gives the node of a name, if it has one.
func (x *nameIndex) node(name string, hash uint64) *nameNode {
	for at := x.place(hash); ; at = (at + 1) & (len(x.table) - 1) {
		if n := x.table[at]; n == nil || n.hash == hash && n.name == name {
			return n
		}
	}
}

// find answers for a canonical name, or for none.
func (x *nameIndex) find(name string) set {
	if name == "" {
		return x.other
	}
	n, hash := x.root, uint64(0)
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			next := x.node(name[i+1:], hash)
			if next == nil {
				return n.below
			}
			if n = next; n.leaf {
				return n.below
			}
		}
		hash = nameHash(hash, name[i])
	}
	if last := x.node(name, hash); last != nil {
		return last.exact
	}
	return n.below
}

// portIndex knows the answer for each port.
type portIndex struct {
	clauses
	ranges  []portRange
	answers []set
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
	numbers := make(map[*chunk]uint16) // of the sets that begin with them
	for i, start := range starts {
		end := 1 << 16
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		if start == end {
			break
		}
		s := x.of(x.pass(x.tally(uint16(start))))
		number, known := numbers[&s[0]]
		if !known {
			number = uint16(len(x.answers))
			numbers[&s[0]] = number
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

func (x *portIndex) find(port uint16) set { return x.answers[x.at[port]] }
