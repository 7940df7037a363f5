package shape

// How it is decided who is next.
//
// Each node that can be served stands in the heaps of its parent. Who is guaranteed something
// and has had less of it than time has passed is due, and stands in claims: those who are due
// go first, in proportion to what is guaranteed to them. Others who are guaranteed
// something stand in early until they are due. Everybody stands in shares, or sparing, for what is
// left, in proportion to their weights.
//
// Both proportions are kept by start-time fair queueing: a tag is how much somebody has had, by
// guarantee or weight, the least tag goes first, and who comes anew begins where the others
// are.
//
// Whoever is above his ceiling stands nowhere until his time has come. What passes a leaf is
// charged to all above it.
const (
	// slack is how many pieces somebody may lag behind the others, or be overdue, without
	// losing them: those who are served in one go come back one by one.
	slack = 8

	// sparseWindow is how many of the last bytes of a user decide what flow uses
	// little of them, and sparsePart what part of them is little.
	sparseWindow = 64 << 10
	sparsePart   = 16

	// How often in a row some go first, so that nobody waits for ever: those who are
	// due before those who are not, and sparse flows before the others.
	maxInClaims = 31
	maxInSparse = 8
)

// serve lets through what can go now.
func (t *tree) serve() {
	t.wake()
	for t.root.can() {
		n := t.root
		for !n.leaf() {
			n = n.pick()
		}
		size := float64(n.grant())
		t.later.put(n, t.now+linger)
		for ; n != nil; n = n.parent {
			n.charge(size)
		}
	}
}

// wake looks after those whose time has come.
func (t *tree) wake() {
	for {
		first, ok := t.later.top()
		if !ok || first.key > t.now {
			return
		}
		n := first.node
		t.later.remove(n)
		if n.leaf() && n.wants == 0 {
			n.busy = false
			n.reckon()
			continue
		}
		n.replace()
	}
}

// can tells whether n can be served now.
func (n *node) can() bool {
	if n.leaf() {
		return n.ready <= n.tree.now && n.wants > 0
	}
	return n.ready <= n.tree.now && !(n.shares.empty() && n.sparing.empty())
}

// pick gives who is next below n.
func (n *node) pick() *node {
	n.tick()
	first, ok := n.claims.top()
	if ok && n.inClaims < maxInClaims {
		n.inClaims++
		first.node.byClaim = true
		return first.node
	}
	n.inClaims = 0
	from := &n.shares
	if !n.sparing.empty() && (n.shares.empty() || n.inSparse < maxInSparse) {
		from = &n.sparing
		n.inSparse++
	} else {
		n.inSparse = 0
	}
	first, _ = from.top()
	first.node.byClaim = false
	return first.node
}

// tick finds who has become due.
func (n *node) tick() {
	for {
		first, ok := n.early.top()
		if !ok || first.key > n.tree.now {
			return
		}
		first.node.claim()
	}
}

// charge takes what has passed n into account.
func (n *node) charge(size float64) {
	if n.parent != nil {
		n.account(size)
	}
	if c := n.limits.Ceiling; c > 0 {
		n.ready = max(n.ready, n.tree.now-depthOf(c)) + c.takes(size)
		n.park()
	}
	n.replace()
}

// account moves n back among its like.
func (n *node) account(size float64) {
	p := n.parent
	if n.byClaim {
		n.due = max(n.due, n.tree.now-n.lag()) + Rate(n.guaranteed).takes(size)
		p.claimed = max(p.claimed, n.claimTag)
		n.claimTag += size / float64(n.guaranteed)
	} else {
		p.shared = max(p.shared, n.tag)
		n.tag += size / float64(n.weight)
	}
	p.passed += size
	if n.leaf() {
		n.spent = max(n.spent, p.passed-sparseWindow) + size*sparsePart
	}
	if n.stands() {
		n.line()
	}
}

// park has n looked after when it is below its ceiling again.
func (n *node) park() {
	if n.ready > n.tree.now && (!n.leaf() || n.wants > 0) {
		n.tree.later.put(n, n.ready)
	}
}

// stands tells whether n stands among those who can be served.
func (n *node) stands() bool { return n.places[byTag] > 0 }

// replace has n stand, and those above it, where they can be served, and nowhere
// else.
func (n *node) replace() {
	for ; n.parent != nil && n.can() != n.stands(); n = n.parent {
		if n.stands() {
			n.leave()
		} else {
			n.enter()
		}
	}
}

func (n *node) enter() {
	p := n.parent
	behind := slack * float64(n.piece.Load())
	if n.guaranteed > 0 {
		n.claimTag = max(n.claimTag, p.claimed-behind/float64(n.guaranteed))
	}
	n.tag = max(n.tag, p.shared-behind/float64(n.weight))
	n.sparse = n.leaf() && n.spent <= p.passed
	n.line()
}

// line puts n at its places.
func (n *node) line() {
	n.claim()
	if p := n.parent; n.sparse {
		p.sparing.put(n, n.tag)
	} else {
		p.shares.put(n, n.tag)
	}
}

// claim puts n where its guarantee has it stand.
func (n *node) claim() {
	p := n.parent
	p.disclaim(n)
	switch {
	case n.guaranteed == 0:
	case n.due <= n.tree.now:
		n.isDue = true
		p.claims.put(n, n.claimTag)
	default:
		n.isDue = false
		p.early.put(n, n.due)
	}
}

// disclaim takes a child out where its guarantee has it stand.
func (n *node) disclaim(child *node) {
	if child.isDue {
		n.claims.remove(child)
	} else {
		n.early.remove(child)
	}
}

func (n *node) leave() {
	p := n.parent
	p.disclaim(n)
	if n.sparse {
		p.sparing.remove(n)
	} else {
		p.shares.remove(n)
	}
}

// lag is how many seconds n may be overdue without losing them.
func (n *node) lag() float64 {
	return max(depth, Rate(n.guaranteed).takes(slack*float64(n.piece.Load())))
}

// reckon works out what n adds to those above it, which depends on who is busy.
func (n *node) reckon() {
	for p := n.parent; p != nil; n, p = p, p.parent {
		guaranteed, weight := n.worth()
		if guaranteed == n.guaranteed && weight == n.weight {
			return
		}
		if n.weight == 0 { // it was not busy
			n.due = max(n.due, n.tree.now)
			n.claimTag = max(n.claimTag, p.claimed)
			n.tag = max(n.tag, p.shared)
		}
		p.guarantees += guaranteed - n.guaranteed
		p.weights += weight - n.weight
		n.guaranteed, n.weight = guaranteed, weight
		if n.stands() {
			n.line()
		}
	}
}

// worth is what is guaranteed to n, and what it weighs: nothing if it is not busy.
func (n *node) worth() (guaranteed, weight int64) {
	guaranteed, weight = int64(n.limits.Guaranteed), int64(max(n.limits.Weight, 1))
	switch {
	case n.leaf() && !n.busy, !n.leaf() && n.weights == 0:
		return 0, 0
	case !n.leaf():
		guaranteed = max(guaranteed, n.guarantees)
		if n.pooled && n.limits.Weight == 0 {
			weight = n.weights
		}
	}
	if c := int64(n.limits.Ceiling); c > 0 {
		guaranteed = min(guaranteed, c)
	}
	return guaranteed, weight
}
