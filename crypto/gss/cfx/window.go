package cfx

// windowSize is how far apart tokens may overtake each other.
const windowSize = 1024

// window knows which tokens have come, by their sequence numbers.
type window struct {
	expected uint64                  // one more than the highest that has come
	seen     [windowSize / 64]uint64 // whether each of the last windowSize below it has come
}

// newWindow makes a window that nothing below first gets through.
func newWindow(first uint64) window {
	w := window{expected: first}
	for i := range w.seen {
		w.seen[i] = ^uint64(0)
	}
	return w
}

// next takes the token that follows, and no other.
func (w *window) next(seq uint64) bool { return seq == w.expected && w.admit(seq) }

// admit takes a token that has not come before and is not too old.
func (w *window) admit(seq uint64) bool {
	ahead := int64(seq - w.expected) // numbers go round
	switch {
	case ahead < -windowSize:
		return false
	case ahead < 0:
		word, bit := w.place(seq)
		if *word&bit != 0 {
			return false
		}
		*word |= bit
		return true
	}
	for i := range uint64(min(ahead, windowSize)) {
		word, bit := w.place(seq - 1 - i) // skipped: may still come
		*word &^= bit
	}
	word, bit := w.place(seq)
	*word |= bit
	w.expected = seq + 1
	return true
}

func (w *window) place(seq uint64) (word *uint64, bit uint64) {
	seq %= windowSize
	return &w.seen[seq/64], 1 << (seq % 64)
}
