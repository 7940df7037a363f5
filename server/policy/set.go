package policy

import (
	"encoding/binary"
	"math/bits"
)

// set is a set of rules by their numbers. All of a policy's are of one length, and nil is
// empty.
type set []chunk

// chunk has the bits of a number of rules that decisions take in one go.
type chunk [16]uint64

const perChunk = 64 * len(chunk{})

func (s set) add(rule int) { s[rule/perChunk][rule/64%len(chunk{})] |= 1 << (rule % 64) }

func (s set) remove(rule int) { s[rule/perChunk][rule/64%len(chunk{})] &^= 1 << (rule % 64) }

func (s set) has(rule int) bool {
	return s[rule/perChunk][rule/64%len(chunk{})]>>(rule%64)&1 != 0
}

func (s set) or(other set) {
	for i := range other {
		for j, w := range other[i] {
			s[i][j] |= w
		}
	}
}

func (s set) andNot(other set) {
	for i := range other {
		for j, w := range other[i] {
			s[i][j] &^= w
		}
	}
}

// and keeps what other has as well.
func (s set) and(other set) {
	for i := range other {
		s[i].and(&other[i])
	}
}

func (c *chunk) and(other *chunk) {
	for i, w := range other {
		c[i] &= w
	}
}

// eachCommon calls f for the rules that all sets have, in order, until it returns false.
// There is at least one set. Five are taken at once, without a branch until a rule is
// found: decisions rarely have more.
func eachCommon(all []set, f func(rule int) bool) {
	for len(all) < 5 {
		all = append(all, all[0]) // which changes nothing
	}
	for i := range all[0] {
		common, four := &all[0][i], all[1:]
		if len(four) > 4 {
			own := *common
			for ; len(four) > 4; four = four[1:] {
				own.and(&four[0][i])
			}
			common = &own
		}
		a, b, c, d := &four[0][i], &four[1][i], &four[2][i], &four[3][i]
		for j := range common {
			for w := common[j] & a[j] & b[j] & c[j] & d[j]; w != 0; w &= w - 1 {
				if !f(i*perChunk + j*64 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// sets makes sets for a number of rules. Equal ones are made once.
type sets struct {
	rules int
	known map[string]set
}

func (s *sets) empty() set { return make(set, (s.rules+perChunk-1)/perChunk) }

func (s *sets) full() set {
	all := s.empty()
	for i := range s.rules {
		all.add(i)
	}
	return all
}

// of gives the set that equals one.
func (s *sets) of(one set) set {
	key := make([]byte, 0, len(one)*perChunk/8)
	for i := range one {
		for _, w := range one[i] {
			key = binary.NativeEndian.AppendUint64(key, w)
		}
	}
	known, found := s.known[string(key)]
	if found {
		return known
	}
	if s.known == nil {
		s.known = make(map[string]set)
	}
	s.known[string(key)] = one
	return one
}

// tally is which rules a value is named by in one kind of clause, and which it is
// excepted by.
type tally struct{ is, not set }

// note adds a word of a rule's.
func (t *tally) note(s *sets, rule int, not bool) {
	at := &t.is
	if not {
		at = &t.not
	}
	if *at == nil {
		*at = s.empty()
	}
	at.add(rule)
}

// join adds what another value is in.
func (t *tally) join(s *sets, other tally) {
	if other.is != nil {
		if t.is == nil {
			t.is = s.empty()
		}
		t.is.or(other.is)
	}
	if other.not != nil {
		if t.not == nil {
			t.not = s.empty()
		}
		t.not.or(other.not)
	}
}

// clauses is what the indexes of all kinds of clause have in common.
type clauses struct {
	*sets
	open set  // rules that have no such clause, or one that only makes exceptions
	used bool // a rule has one
}

func newClauses(s *sets) clauses { return clauses{sets: s, open: s.full()} }

// enter notes that a rule has a clause.
func (c *clauses) enter(rule, named int) {
	c.used = true
	if named > 0 {
		c.open.remove(rule)
	}
}

// pass gives the rules whose clause a value passes.
func (c *clauses) pass(t tally) set {
	those := c.empty()
	those.or(c.open)
	those.or(t.is)
	those.andNot(t.not)
	return those
}
