package shape

import (
	"testing"
)

// Nothing is limited: one load and one branch.
func BenchmarkTakeWithoutCeiling(b *testing.B) {
	f := New(Allotment{}).User(Allotment{}).Flow(Allotment{})
	defer f.Close()
	for b.Loop() {
		if n, err := f.Take(Down, chunk); n != chunk || err != nil {
			b.Fatal(n, err)
		}
	}
}

// There is a ceiling, and room below it.
func BenchmarkTakeBelowTheCeiling(b *testing.B) {
	f := New(both(Limits{Ceiling: MaxRate})).User(both(Limits{Guaranteed: Gbit})).Flow(Allotment{})
	defer f.Close()
	for b.Loop() {
		if _, err := f.Take(Down, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// One of 10,000 flows that wait is served, and asks again.
func BenchmarkPickOutOf10000(b *testing.B) {
	all := New(both(Limits{Ceiling: Gbit}))
	var leaves []*node
	for range 100 {
		user := all.User(both(Limits{Guaranteed: Mbit}))
		for range 100 {
			leaves = append(leaves, user.Flow(Allotment{}).ways[Down])
		}
	}
	t := all.ways[Down].tree
	t.now = t.root.ready - 1
	ask := func(n *node) {
		n.wants = chunk
		t.waiting++
		n.want()
	}
	t.root.ready = 1 // red, until all stand
	for _, n := range leaves {
		ask(n)
	}
	b.ReportAllocs()
	for b.Loop() {
		t.now = t.root.ready
		t.serve()
		for _, e := range t.later.entries {
			if n := e.node; n.leaf() && n.wants == 0 {
				ask(n)
				break
			}
		}
	}
}

// A wait costs no memory from the second on.
func TestAWaitAllocatesNothing(t *testing.T) {
	user := New(both(Limits{Ceiling: 100 * Mbit})).User(Allotment{})
	f := user.Flow(Allotment{})
	defer f.Close()
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := f.Take(Down, chunk); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
