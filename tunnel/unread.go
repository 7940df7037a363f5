package tunnel

import "sync"

// Sizes of the pieces in which a stream's bytes wait, in bytes: one for a few, and one for
// many. What a stream holds is less than its unread bytes and two large pieces: the first has been
// read in part, and the last is not full.
const (
	smallPiece = 1 << 10
	largePiece = maxFrameData
)

var smallPieces, largePieces sync.Pool // of *piece

// piece is a part of what waits.
type piece struct {
	next *piece
	buf  []byte // all of it
	r, w int
}

func newPiece(n int) *piece {
	pool, size := &smallPieces, smallPiece
	if n > smallPiece {
		pool, size = &largePieces, largePiece
	}
	if p, ok := pool.Get().(*piece); ok {
		return p
	}
	return &piece{buf: make([]byte, size)}
}

func (p *piece) free() {
	p.next, p.r, p.w = nil, 0, 0
	if len(p.buf) == smallPiece {
		smallPieces.Put(p)
	} else {
		largePieces.Put(p)
	}
}

// unread is what a stream's peer has sent and nobody has read. What may be in it is
// bounded by what the peer was granted.
type unread struct {
	moved signal // to those who wait: bytes, or an end

	taking sync.Mutex // held while the taker is called, and before mu

	mu          sync.Mutex
	first, last *piece
	taker       func(b []byte) int // takes bytes before they have to wait here; nil if nobody does
}

// add appends b. What the taker takes of it does not wait, and it tells how much that was.
func (u *unread) add(b []byte) (taken int) {
	u.taking.Lock()
	defer u.taking.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if take := u.taker; take != nil {
		u.mu.Unlock()
		taken = take(b)
		u.mu.Lock()
		if taken == len(b) {
			return taken
		}
		u.taker, b = nil, b[taken:] // what follows has to wait, too
	}
	for len(b) > 0 {
		if u.last == nil || u.last.w == len(u.last.buf) {
			u.grow(len(b))
		}
		n := copy(u.last.buf[u.last.w:], b)
		u.last.w += n
		b = b[n:]
	}
	u.tell()
	return taken
}

func (u *unread) grow(n int) {
	p := newPiece(n)
	if u.last == nil {
		u.first = p
	} else {
		u.last.next = p
	}
	u.last = p
}

// take moves what there is to b.
func (u *unread) take(b []byte) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for n < len(b) && u.first != nil {
		p := u.first
		k := copy(b[n:], p.buf[p.r:p.w])
		n += k
		if p.r += k; p.r == p.w {
			u.drop()
		}
	}
	if u.first != nil {
		u.tell() // there is more, for somebody else perhaps
	}
	return n
}

// drop gives the first piece back. The caller holds mu.
func (u *unread) drop() {
	p := u.first
	if u.first = p.next; u.first == nil {
		u.last = nil
	}
	p.free()
}

// any tells whether something waits.
func (u *unread) any() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.first != nil
}

// offer lets taker have what comes from now on. Nothing waits then.
func (u *unread) offer(taker func(b []byte) int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taker = taker
}

// withdraw ends an offer. The taker is not called any more when it returns.
func (u *unread) withdraw() {
	u.taking.Lock()
	defer u.taking.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taker = nil
}

// clear gives up what waits.
func (u *unread) clear() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.first != nil {
		u.drop()
	}
}

// tell wakes one of those who wait.
func (u *unread) tell() {
	u.moved.tell()
}
