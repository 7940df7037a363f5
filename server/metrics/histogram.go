package metrics

import (
	"slices"
	"sync/atomic"
	"time"
)

// Histogram counts how long things take. Its methods are safe for concurrent use, and
// wait for nothing.
type Histogram struct {
	bounds []time.Duration
	counts []atomic.Uint64 // up to each bound, and above the last
	sum    atomic.Int64    // nanoseconds
}

// Spread gives bounds for a histogram between two times: 1, 2.5, 5, 10, 25 and so on.
func Spread(from, to time.Duration) (bounds []time.Duration) {
	for ; from < to; from *= 10 {
		bounds = append(bounds, from, from*5/2, from*5)
	}
	return append(slices.DeleteFunc(bounds, func(d time.Duration) bool { return d >= to }), to)
}

// NewHistogram gives one with these bounds, which ascend.
func NewHistogram(bounds ...time.Duration) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Observe counts something that has taken so long.
func (h *Histogram) Observe(d time.Duration) {
	i, _ := slices.BinarySearch(h.bounds, d) // a bound is its bucket's own
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}
