package shape

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// forest is a random tree, its reference, and what has passed it.
type forest struct {
	w     *world
	r     *rand.Rand
	nodes []*watched
	loads []*load
	users [][2]int // which loads are a user's
	fair  []*fluid // of users
}

// watched is a node whose ceiling is watched: as a bucket that leaks at its rate.
type watched struct {
	limits Limits

	mu    sync.Mutex
	level float64 // bytes
	at    time.Time
	most  float64
}

func (n *watched) pass(size int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	n.level = max(0, n.level-now.Sub(n.at).Seconds()*float64(n.limits.Ceiling)/8) + float64(size)
	n.at = now
	n.most = max(n.most, n.level)
}

func (f *forest) limits(least Rate) Limits {
	var l Limits
	if f.r.IntN(2) == 0 {
		l.Ceiling = least * Rate(1+f.r.IntN(20))
	}
	if f.r.IntN(3) == 0 {
		l.Guaranteed = least * Rate(1+f.r.IntN(8)) / 2
	}
	if f.r.IntN(3) == 0 {
		l.Weight = 1 + f.r.IntN(4)
	}
	return l
}

func (f *forest) watch(l Limits) *watched {
	n := &watched{limits: l, at: time.Now()}
	f.nodes = append(f.nodes, n)
	return n
}

// grow plants users below a share.
func (f *forest) grow(s *Share, reference *fluid, least Rate, above ...*watched) {
	for range 1 + f.r.IntN(4) {
		limits := f.limits(least)
		user, fair := s.User(both(limits)), &fluid{limits: limits}
		reference.below = append(reference.below, fair)
		f.fair = append(f.fair, fair)
		first := len(f.loads)
		path := append(above[:len(above):len(above)], f.watch(limits))
		for range 1 + f.r.IntN(5) {
			var limits Limits
			if f.r.IntN(4) == 0 {
				limits.Ceiling = least * Rate(1+f.r.IntN(3))
			}
			fair.below = append(fair.below, &fluid{limits: limits})
			path := append(path[:len(path):len(path)], f.watch(limits))
			l := &load{Flow: user.Flow(both(limits)), passed: func(n int) {
				for _, w := range path {
					w.pass(n)
				}
			}}
			f.loads = append(f.loads, l)
		}
		f.users = append(f.users, [2]int{first, len(f.loads)})
	}
}

// Random trees against the reference, and every ceiling of theirs against its burst.
func TestRandomTreesDivideAsAFluidDoesAndKeepTheirCeilings(t *testing.T) {
	for seed := range uint64(40) {
		within(t, func(w *world) {
			f := &forest{w: w, r: rand.New(rand.NewPCG(seed, 1))}
			least := []Rate{10 * Kbit, 100 * Kbit, Mbit, 5 * Mbit}[f.r.IntN(4)]
			limits := Limits{Ceiling: least * Rate(5+f.r.IntN(60))}
			all, reference := New(both(limits)), &fluid{limits: limits}
			top := f.watch(limits)
			f.grow(all, reference, least, top)
			for range f.r.IntN(4) {
				limits := f.limits(2 * least)
				group := &fluid{limits: limits, pooled: true}
				reference.below = append(reference.below, group)
				f.grow(all.Group(both(limits)), group, least, top, f.watch(limits))
			}
			for _, l := range f.loads {
				w.run(l)
			}
			reference.divide(min(float64(limits.Ceiling), reference.most()))
			time.Sleep(2 * time.Second)
			// Long enough for 4,000 pieces.
			d := max(10*time.Second, time.Duration(4000*limits.Ceiling.takes(float64(pieceOf(limits.Ceiling)))*1e9))
			f.judge(fmt.Sprintf("seed %d", seed), w.rates(d, f.loads), d)
		})
	}
}

func (f *forest) judge(name string, rates []float64, d time.Duration) {
	for i, part := range f.users {
		var got float64
		for _, r := range rates[part[0]:part[1]] {
			got += r
		}
		fair := f.fair[i].got
		// Pieces are no fluid, and are not of one size.
		total := f.nodes[0].limits.Ceiling
		pieces := 4*float64(pieceOf(total))*8/d.Seconds() + float64(total)/100
		if math.Abs(got-fair) > 0.05*fair+pieces {
			f.w.t.Errorf("%s: user %d %+v gets %.0f bit/s, fair are %.0f", name, i, f.fair[i].limits, got, fair)
		}
	}
	for _, n := range f.nodes {
		n.mu.Lock()
		defer n.mu.Unlock()
		if c := n.limits.Ceiling; c > 0 && n.most > burst(c)+1 {
			f.w.t.Errorf("%s: %v is exceeded by %.0f bytes, more than %.0f", name, c, n.most, burst(c))
		}
	}
}
