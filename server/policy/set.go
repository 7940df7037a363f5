package policy

import (
	"encoding/binary"
	"math/bits"
)

// bitset is a set of rules by their numbers, while it is being made. All of a policy's
// are of one length.
type bitset []uint64

func (b bitset) add(rule int) { b[rule/64] |= 1 << (rule % 64) }

func (b bitset) remove(rule int) { b[rule/64] &^= 1 << (rule % 64) }

func (b bitset) has(rule int) bool { return b[rule/64]>>(rule%64)&1 != 0 }

// or adds what other has. A nil other has nothing.
func (b bitset) or(other bitset) {
	for i, w := range other {
		b[i] |= w
	}
}

func (b bitset) andNot(other bitset) {
	for i, w := range other {
		b[i] &^= w
	}
}

// set is a bitset that is ready for decisions. Most of them have few rules, and the
// summary tells where: bit i is set if words[i] is not 0.
type set struct {
	words   bitset
	summary bitset
}

func newSet(b bitset) *set {
	s := &set{words: b, summary: make(bitset, (len(b)+63)/64)}
	for i, w := range b {
		if w != 0 {
			s.summary.add(i)
		}
	}
	return s
}

// eachCommon calls f for the rules that all sets have, in order, until it returns false.
// There is at least one set; it is quicker if those with few rules come first.
func eachCommon(sets []*set, f func(rule int) bool) {
	first, others := sets[0], sets[1:]
	for block, summary := range first.summary {
		for _, s := range others {
			summary &= s.summary[block]
		}
		for ; summary != 0; summary &= summary - 1 {
			at := block*64 + bits.TrailingZeros64(summary)
			word := first.words[at]
			for _, s := range others {
				if word &= s.words[at]; word == 0 {
					break
				}
			}
			for ; word != 0; word &= word - 1 {
				if !f(at*64 + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

// sets makes sets for a number of rules. Equal ones are made once.
type sets struct {
	rules int
	known map[string]*set
}

func (s *sets) empty() bitset { return make(bitset, (s.rules+63)/64) }

func (s *sets) full() bitset {
	b := s.empty()
	for i := range s.rules {
		b.add(i)
	}
	return b
}

func (s *sets) of(b bitset) *set {
	key := make([]byte, 0, len(b)*8)
	for _, w := range b {
		key = binary.NativeEndian.AppendUint64(key, w)
	}
	if known := s.known[string(key)]; known != nil {
		return known
	}
	if s.known == nil {
		s.known = make(map[string]*set)
	}
	made := newSet(b)
	s.known[string(key)] = made
	return made
}

// tally is which rules a value is named by in one kind of clause, and which it is
// excepted by.
type tally struct{ is, not bitset }

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
	open bitset // rules that have no such clause, or one that only makes exceptions
	used bool   // a rule has one
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
func (c *clauses) pass(t tally) bitset {
	b := c.empty()
	b.or(c.open)
	b.or(t.is)
	b.andNot(t.not)
	return b
}
