package shape

// slot says which of a node's places a heap keeps.
type slot int

const (
	byDue  slot = iota // among those that are guaranteed something
	byTag              // among those that share what is left
	byTime             // among those that wait for a time
	slots
)

// heap gives nodes by their keys, the least first. A node knows its place, so that it
// can be moved and taken out: all in logarithmic time.
type heap struct {
	slot    slot
	entries []entry
}

type entry struct {
	key  float64
	node *node
}

func (h *heap) empty() bool { return len(h.entries) == 0 }

// top is the first, if there is one.
func (h *heap) top() (first entry, ok bool) {
	if h.empty() {
		return entry{}, false
	}
	return h.entries[0], true
}

// holds tells whether n has a place in h, or in another heap for the same slot.
func (h *heap) holds(n *node) bool { return n.places[h.slot] > 0 }

// put gives n a place, or another one.
func (h *heap) put(n *node, key float64) {
	if !h.holds(n) {
		h.entries = append(h.entries, entry{})
		h.up(len(h.entries)-1, entry{key, n})
		return
	}
	at := n.places[h.slot] - 1
	h.down(h.up(at, entry{key, n}), entry{key, n})
}

// remove takes n out, if it is in.
func (h *heap) remove(n *node) {
	if !h.holds(n) {
		return
	}
	at := n.places[h.slot] - 1
	n.places[h.slot] = 0
	end := len(h.entries) - 1
	last := h.entries[end]
	h.entries[end] = entry{}
	h.entries = h.entries[:end]
	if at < end {
		h.down(h.up(at, last), last)
	}
}

// up puts e at a place or above it, and tells where.
func (h *heap) up(at int, e entry) int {
	for at > 0 {
		above := (at - 1) / 2
		if h.entries[above].key <= e.key {
			break
		}
		h.set(at, h.entries[above])
		at = above
	}
	h.set(at, e)
	return at
}

// down puts e at a place or below it.
func (h *heap) down(at int, e entry) {
	for {
		below := 2*at + 1
		if below >= len(h.entries) {
			break
		}
		if right := below + 1; right < len(h.entries) && h.entries[right].key < h.entries[below].key {
			below = right
		}
		if e.key <= h.entries[below].key {
			break
		}
		h.set(at, h.entries[below])
		at = below
	}
	h.set(at, e)
}

func (h *heap) set(at int, e entry) {
	h.entries[at] = e
	e.node.places[h.slot] = at + 1 // so that 0 is no place
}
