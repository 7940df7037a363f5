package shape

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// depth is how many seconds' worth may pass at once after a pause. It makes up
	// for timers that are late.
	depth = 0.025

	// linger is for how many seconds somebody who has been served counts as one who
	// wants more. He has to come back with the next bytes first.
	linger = 0.05

	// minPause is the least that the timer waits.
	minPause = 50 * time.Microsecond
)

// tree is one direction of all.
type tree struct {
	start time.Time
	root  *node

	mu      sync.Mutex
	now     float64 // seconds since start
	waiting int     // leaves that want something
	later   heap    // by time: who is above his ceiling, and leaves that linger
	timer   *time.Timer
	alarm   float64 // when it fires; 0: it does not
}

// node is a place in a tree: the root, a group, a user, or the leaf of a flow. The
// tree's mu guards it. There are many leaves, so they have no more than they need.
type node struct {
	tree   *tree
	parent *node
	*inner // nil for a leaf
	limits Limits

	// piece is how many bytes go at a time. 0: there is no ceiling here or above.
	piece atomic.Int64

	ready float64 // when it is below its ceiling

	guaranteed, weight int64 // what it adds to that above

	// The place among those who can be served now, as pick.go has it.
	places   [slots]int
	due      float64 // when the guarantee has the next byte
	claimTag float64
	tag      float64
	spent    float64
	isDue    bool
	sparse   bool
	byClaim  bool // it is being served by its guarantee

	closed bool

	// A leaf's own.
	whole   bool // all it wants, or none
	busy    bool
	sleeps  bool
	wants   int      // bytes
	got     int      // when it was served last
	granted chan int // bytes
}

// inner is what a node is for those below it.
type inner struct {
	below  map[*node]struct{} // all there are
	pooled bool               // weighs as much as those below it who are busy

	guarantees, weights int64 // what the busy ones have in all

	// Those who can be served now.
	claims   heap    // who are due by their guarantees
	early    heap    // who are not yet
	shares   heap    // all but the leaves in sparing
	sparing  heap    // leaves that use little
	claimed  float64 // the tag of who was served last of claims
	shared   float64 // and of shares or sparing
	passed   float64 // bytes
	inClaims int     // services in a row
	inSparse int
}

func newTree(limits Limits) *node {
	t := &tree{start: time.Now(), later: heap{slot: byTime}}
	t.root = &node{tree: t, limits: limits, inner: newInner(false)}
	t.root.spread()
	return t.root
}

func newInner(pooled bool) *inner {
	return &inner{
		below: make(map[*node]struct{}), pooled: pooled,
		claims: heap{slot: byDue}, early: heap{slot: byDue},
		shares: heap{slot: byTag}, sparing: heap{slot: byTag},
	}
}

// leaf tells whether nothing can be below n.
func (n *node) leaf() bool { return n.inner == nil }

// lock begins what changes the tree.
func (t *tree) lock() {
	t.mu.Lock()
	t.now = time.Since(t.start).Seconds()
}

// unlock ends it.
func (t *tree) unlock() {
	t.settle()
	t.mu.Unlock()
}

// settle serves who can be served, and sets the timer for the others.
func (t *tree) settle() {
	t.serve()
	first, ok := t.later.top()
	switch {
	case t.waiting == 0 || !ok:
		if t.alarm > 0 {
			t.alarm = 0
			t.timer.Stop()
		}
		return
	case t.alarm > t.now && t.alarm <= first.key:
		return // it is early enough, and too early does no harm
	}
	pause := max(time.Duration(math.Ceil((first.key-t.now)*1e9)), minPause)
	t.alarm = t.now + pause.Seconds()
	if t.timer == nil {
		t.timer = time.AfterFunc(pause, t.fire)
		return
	}
	t.timer.Reset(pause)
}

// fire is the timer's.
func (t *tree) fire() {
	t.lock()
	t.alarm = 0
	t.unlock()
}

// add puts a new node below n.
func (n *node) add(child *node) *node {
	child.tree = n.tree
	n.tree.lock()
	defer n.tree.unlock()
	child.attach(n)
	return child
}

func (n *node) attach(parent *node) {
	n.parent = parent
	parent.below[n] = struct{}{}
	n.due, n.claimTag, n.tag, n.spent = 0, 0, 0, 0
	n.spread()
}

// detach takes n out of the tree.
func (n *node) detach() {
	n.leave()
	n.parent.replace()
	n.busy = false
	n.reckon()
	n.tree.later.remove(n)
	delete(n.parent.below, n)
}

// close takes n out for good.
func (n *node) close() {
	n.tree.lock()
	defer n.tree.unlock()
	if n.closed || n.parent == nil {
		return
	}
	n.closed = true
	n.drop()
	n.detach()
}

// owes is how long it takes until n has saved up as much as a new node has.
func (n *node) owes() time.Duration {
	n.tree.mu.Lock()
	defer n.tree.mu.Unlock()
	c := n.limits.Ceiling
	if c == 0 {
		return 0
	}
	full := time.Duration((n.ready + depthOf(c)) * 1e9)
	return max(full-time.Since(n.tree.start), 0)
}

// move puts a leaf below another node.
func (n *node) move(parent *node, limits Limits) {
	n.tree.lock()
	defer n.tree.unlock()
	if n.closed {
		return
	}
	n.detach()
	n.limits, n.ready = limits, 0
	n.attach(parent)
	if n.wants > 0 {
		n.want()
	}
}

// set changes what n gets.
func (n *node) set(limits Limits) {
	n.tree.lock()
	defer n.tree.unlock()
	if n.closed {
		return
	}
	// What was too much stays too much, in bytes.
	switch debt := n.ready - n.tree.now; {
	case limits.Ceiling == 0:
		n.ready = 0
	case n.limits.Ceiling > 0:
		n.ready = n.tree.now + debt*float64(n.limits.Ceiling)/float64(limits.Ceiling)
	}
	n.limits = limits
	n.spread()
	n.reckon()
	if n.tree.later.holds(n) && !(n.leaf() && n.wants == 0) {
		n.tree.later.put(n, n.ready)
	}
	n.replace()
}

// spread works out the piece of n, and of all below it.
func (n *node) spread() {
	piece := pieceOf(n.limits.Ceiling)
	if n.parent != nil {
		if above := n.parent.piece.Load(); piece == 0 || (above > 0 && above < piece) {
			piece = above
		}
	}
	n.piece.Store(piece)
	if n.leaf() {
		return
	}
	for child := range n.below {
		child.spread()
	}
}

const (
	minPiece    = 256
	middlePiece = 12_500
	maxPiece    = 64 << 10
)

// pieceOf is how many bytes go at a time through a ceiling: what goes through in
// a millisecond, or in four where that is little. 0: as many as they are.
func pieceOf(ceiling Rate) int64 {
	if ceiling == 0 {
		return 0
	}
	millisecond := int64(ceiling) / 8 / 1000
	return min(max(millisecond, min(4*millisecond, middlePiece), minPiece), maxPiece)
}

// burst is how many bytes may pass a ceiling at once, in pieces.
func burst(ceiling Rate) float64 {
	return float64(ceiling)/8*depthOf(ceiling) + float64(pieceOf(ceiling))
}

// depthOf is how many seconds' worth may be saved up.
func depthOf(ceiling Rate) float64 { return max(depth, ceiling.takes(minPiece)) }

// ask says that a leaf wants so many bytes, or some of them, and tells how many it has
// already. If it has none, granted tells when.
func (n *node) ask(bytes int, whole bool) (got int) {
	n.tree.lock()
	defer n.tree.mu.Unlock()
	if n.closed {
		return 0 // whoever waits for a flow sees that it is closed
	}
	if got := n.serveNow(bytes, whole); got > 0 {
		return got
	}
	if n.granted == nil {
		n.granted = make(chan int, 1)
	}
	n.sleeps = true
	return 0
}

// try is ask that leaves no wish behind.
func (n *node) try(bytes int) bool {
	n.tree.lock()
	defer n.tree.mu.Unlock()
	if n.closed {
		return false
	}
	if n.serveNow(bytes, true) > 0 {
		return true
	}
	n.drop()
	n.tree.later.put(n, n.tree.now+linger)
	n.replace()
	n.tree.settle()
	return false
}

// serveNow tells what a leaf gets at once that wants so many bytes.
func (n *node) serveNow(bytes int, whole bool) (got int) {
	n.wants, n.whole = bytes, whole
	n.tree.waiting++
	n.want()
	n.tree.settle()
	if n.wants > 0 {
		return 0
	}
	return n.got
}

// want lines a leaf up that wants something.
func (n *node) want() {
	if !n.busy {
		n.busy = true
		n.reckon()
	}
	n.tree.later.remove(n)
	n.park()
	n.replace()
}

// drop forgets what a leaf wants.
func (n *node) drop() {
	if n.wants > 0 {
		n.wants, n.sleeps = 0, false
		n.tree.waiting--
	}
}

// grant lets a leaf have what it wants, or a part of it, and tells how much.
func (n *node) grant() int {
	sleeps := n.sleeps
	n.got = n.wants
	if !n.whole {
		n.got = min(n.wants, n.portion())
	}
	n.drop()
	if sleeps {
		n.granted <- n.got
	}
	return n.got
}

// portion is how many bytes a leaf may have at once: a piece, or what has been saved up
// all the way. So whoever comes late, because the machine is busy, does not lose by it.
func (n *node) portion() int {
	piece := int(n.piece.Load())
	if piece == 0 {
		return n.wants
	}
	saved := float64(n.wants)
	for ; n != nil; n = n.parent {
		if c := n.limits.Ceiling; c > 0 {
			saved = min(saved, min(n.tree.now-n.ready, depthOf(c))*float64(c)/8)
		}
	}
	return max(piece, int(saved))
}
