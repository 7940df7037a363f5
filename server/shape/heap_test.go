package shape

import (
	"math/rand/v2"
	"testing"
)

func TestHeapGivesTheLeastAndKnowsWhereEverybodyIs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	h := heap{slot: byTag}
	nodes := make([]node, 200)
	keys := make(map[*node]float64)
	for range 20_000 {
		n := &nodes[r.IntN(len(nodes))]
		if r.IntN(3) == 0 {
			h.remove(n)
			delete(keys, n)
		} else {
			keys[n] = float64(r.IntN(1000))
			h.put(n, keys[n])
		}
		if h.holds(n) != (n.places[byTag] > 0) || len(h.entries) != len(keys) {
			t.Fatalf("%d stand in it, %d should", len(h.entries), len(keys))
		}
		least, ok := h.top()
		if ok != (len(keys) > 0) {
			t.Fatal("it is empty, or is not")
		}
		for at, e := range h.entries {
			if e.node.places[byTag] != at+1 || e.key != keys[e.node] || e.key < least.key {
				t.Fatalf("place %d of %d: %+v, the least is %v", at, len(keys), e, least.key)
			}
		}
	}
}
