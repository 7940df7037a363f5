package shape

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chunk is what a relay reads at a time.
const chunk = 64 << 10

// both allots the same in both directions.
func both(l Limits) Allotment { return Allotment{l, l} }

// world runs flows in virtual time.
type world struct {
	t     *testing.T
	flows sync.WaitGroup
	ended chan struct{}
}

// within runs a test in a world, whose flows end with it.
func within(t *testing.T, do func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, ended: make(chan struct{})}
		defer w.flows.Wait()
		defer close(w.ended)
		do(w)
	})
}

// until closes a flow when the world ends.
func (w *world) until(f *Flow) {
	w.flows.Go(func() {
		<-w.ended
		f.Close()
	})
}

// load is a flow that always wants more, and what it has got.
type load struct {
	*Flow
	got     atomic.Int64
	longest atomic.Int64 // wait
	passed  func(n int)
}

// greedy runs a flow that always wants more.
func (w *world) greedy(f *Flow) *load {
	l := &load{Flow: f}
	w.run(l)
	return l
}

func (w *world) run(l *load) {
	w.until(l.Flow)
	w.flows.Go(func() {
		for {
			asked := time.Now()
			n, err := l.Take(Down, chunk)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					w.t.Error(err)
				}
				return
			}
			l.got.Add(int64(n))
			l.longest.Store(max(l.longest.Load(), int64(time.Since(asked))))
			if l.passed != nil {
				l.passed(n)
			}
		}
	})
}

// rates measures for a time what flows get.
func (w *world) rates(d time.Duration, loads []*load) []float64 {
	synctest.Wait()
	before := make([]int64, len(loads))
	for i, l := range loads {
		before[i] = l.got.Load()
	}
	time.Sleep(d)
	synctest.Wait()
	rates := make([]float64, len(loads))
	for i, l := range loads {
		rates[i] = float64(l.got.Load()-before[i]) * 8 / d.Seconds()
	}
	return rates
}

// jain is Jain's index of fairness.
func jain(x []float64) float64 {
	var sum, squares float64
	for _, v := range x {
		sum += v
		squares += v * v
	}
	return sum * sum / (float64(len(x)) * squares)
}

// fluid is the reference: how a share divides what it has, if it were a fluid and
// everybody wanted all he could get.
type fluid struct {
	limits Limits
	pooled bool
	below  []*fluid

	got float64
}

// most is what f can take.
func (f *fluid) most() float64 {
	most := 1e18
	if len(f.below) > 0 {
		most = 0
		for _, b := range f.below {
			most += b.most()
		}
	}
	if c := f.limits.Ceiling; c > 0 {
		most = min(most, float64(c))
	}
	return most
}

// guaranteed is what f can count on, whether it can take it or not.
func (f *fluid) guaranteed() float64 {
	var sum float64
	for _, b := range f.below {
		sum += b.guaranteed()
	}
	sum = max(float64(f.limits.Guaranteed), sum)
	if c := f.limits.Ceiling; c > 0 {
		sum = min(sum, float64(c))
	}
	return sum
}

func (f *fluid) weight() float64 {
	if !f.pooled || f.limits.Weight > 0 {
		return float64(max(f.limits.Weight, 1))
	}
	var sum float64
	for _, b := range f.below {
		sum += b.weight()
	}
	return sum
}

// divide gives f so much, and those below it their parts: first of what is guaranteed,
// and then of what is left.
func (f *fluid) divide(c float64) {
	f.got = c
	n := len(f.below)
	parts, room := make([]float64, n), make([]float64, n)
	weights := make([]float64, n)
	for i, b := range f.below {
		weights[i] = b.guaranteed()
		room[i] = min(b.guaranteed(), b.most())
	}
	const claims = float64(maxInClaims) / (maxInClaims + 1)
	c = c*(1-claims) + fill(c*claims, weights, room, parts)
	for i, b := range f.below {
		weights[i] = b.weight()
		room[i] = b.most() - parts[i]
	}
	fill(c, weights, room, parts)
	for i, b := range f.below {
		b.divide(parts[i])
	}
}

// fill adds to parts what there is, by weight and as far as there is room. It gives what
// is left.
func fill(c float64, weights, room, parts []float64) float64 {
	const drop = 1
	for {
		var sum float64
		for i, w := range weights {
			if room[i] > drop {
				sum += w
			}
		}
		if sum == 0 || c < drop {
			return c
		}
		unit := c / sum
		for i, w := range weights {
			if room[i] > drop && w > 0 {
				unit = min(unit, room[i]/w)
			}
		}
		for i, w := range weights {
			if room[i] > drop {
				parts[i] += unit * w
				room[i] -= unit * w
				c -= unit * w
			}
		}
	}
}
