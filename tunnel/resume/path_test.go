package resume_test

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// counted counts what is written to a conn.
type counted struct {
	net.Conn
	n atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// TestPathIsKeptBusyAndNoMoreIsHeldThanItNeeds says what a download costs: how much
// memory, and how many bytes of acknowledgements.
func TestPathIsKeptBusyAndNoMoreIsHeldThanItNeeds(t *testing.T) {
	const mbit = 1_000_000 / 8
	for _, test := range []struct {
		name  string
		rate  int
		trip  time.Duration
		queue int // bytes beyond bandwidth × delay that the carrier and the path take
	}{
		{"100 Mbit/s × 50 ms", 100 * mbit, 50 * time.Millisecond, 256 << 10},
		{"100 Mbit/s × 50 ms, bloated", 100 * mbit, 50 * time.Millisecond, 64 << 20},
		{"400 Mbit/s × 100 ms, bloated", 400 * mbit, 100 * time.Millisecond, 64 << 20},
		{"1 Gbit/s × 200 ms", 1000 * mbit, 200 * time.Millisecond, 256 << 10},
		{"20 Mbit/s × 600 ms", 20 * mbit, 600 * time.Millisecond, 1 << 20},
		{"1 Mbit/s × 100 ms", 1 * mbit, 100 * time.Millisecond, 128 << 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, resume.Config{Grace: time.Minute})
				p.drain()
				product := test.rate * int(test.trip/time.Millisecond) / 1000
				a, b := tunneltest.Link(tunneltest.Path{Delay: test.trip / 2, Rate: test.rate, Queue: product + test.queue})
				up, down := &counted{Conn: a}, &counted{Conn: b}
				p.epoch++
				p.carry(p.b, down, 0)
				p.carry(p.a, up, 0)
				p.ended.Go(func() { io.Copy(p.a, zeros{}) })

				time.Sleep(15 * test.trip)
				const span = 2 * time.Second
				before, sent, acks := p.b.Received(), up.n.Load(), down.n.Load()
				most := 0
				for range 20 {
					time.Sleep(span / 20)
					state, _ := p.a.State()
					most = max(most, state.Held)
				}
				used := float64(p.b.Received()-before) / span.Seconds() / float64(test.rate)
				cost := float64(down.n.Load()-acks) / float64(up.n.Load()-sent)
				t.Logf("%.1f %% of the path, %.2f MiB held (bandwidth × delay: %.2f), %.3f %% of acknowledgements",
					100*used, float64(most)/(1<<20), float64(product)/(1<<20), 100*cost)
				if used < 0.9 || cost > 0.005 {
					t.Error("too little, or too dear")
				}
				if most > max(4<<20, 21*product/10) {
					t.Errorf("%d bytes are held", most)
				}
			})
		})
	}
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
