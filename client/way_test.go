package client_test

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/tunnel"
)

// road is a way to a hub, which can be blocked.
type road struct {
	hub  *hub
	name string

	mu     sync.Mutex
	silent bool // dials get no answer
	last   *hubCarrier
}

func (r *road) dial(ctx context.Context) (client.Carrier, error) {
	r.mu.Lock()
	silent := r.silent
	r.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, err := r.hub.dial(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = c.(*hubCarrier)
	return named{r.last, r.name}, nil
}

// block makes everything on the road stand still, or go on.
func (r *road) block(silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = silent
	if r.last != nil {
		r.last.near.Stall(silent)
	}
}

// named is a carrier of some kind.
type named struct {
	client.Carrier
	name string
}

func (n named) Protection() tunnel.Protection { return tunnel.Protection{Carrier: n.name} }

// startOnRoads runs a client that has a good way to a hub and a better one.
func startOnRoads(t *testing.T) (h *hub, c *serving, better, good *road) {
	h = newHub(t, nil)
	h.grace = time.Minute
	better, good = &road{hub: h, name: "better"}, &road{hub: h, name: "good"}
	c = start(t, h, func(cfg *client.Config) {
		cfg.Better, cfg.Dial = []client.Dialer{better.dial}, good.dial
	})
	return h, c, better, good
}

func TestBetterWayIsTaken(t *testing.T) {
	_, c, _, _ := startOnRoads(t)
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	if st := c.Status(); st.Protection.Carrier != "better" || st.Passed != "" {
		t.Errorf("status %+v", st)
	}
}

func TestBlockedWayIsPassedWithinAMoment(t *testing.T) {
	h := newHub(t, nil)
	better, good := &road{hub: h, name: "better", silent: true}, &road{hub: h, name: "good"}
	began := time.Now()
	c := start(t, h, func(cfg *client.Config) {
		cfg.Better, cfg.Dial = []client.Dialer{better.dial}, good.dial
	})
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if st := c.Status(); st.Protection.Carrier != "good" || st.Passed == "" {
		t.Errorf("status %+v", st)
	}
}

// TestSessionMovesBetweenWays blocks the way in use again and again.
func TestSessionMovesBetweenWays(t *testing.T) {
	_, c, better, good := startOnRoads(t)
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	for range 3 {
		for _, r := range []*road{better, good} {
			r.block(true)
			began := time.Now()
			say(t, conn, "hello")
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("%s was left after %v", r.name, took)
			}
			r.block(false)
		}
	}
}

func TestRefusedWayIsToldWhy(t *testing.T) {
	h := newHub(t, nil)
	good := &road{hub: h, name: "good"}
	c := start(t, h, func(cfg *client.Config) {
		cfg.Better = []client.Dialer{func(context.Context) (client.Carrier, error) { return nil, io.ErrNoProgress }}
		cfg.Dial = good.dial
	})
	c.connect(t).Close()
	if st := c.Status(); st.Passed != io.ErrNoProgress.Error() {
		t.Errorf("status %+v", st)
	}
}

// TestBetterWayIsTakenWhenItComesBack changes the network, so that the client
// does not wait before it looks.
func TestBetterWayIsTakenWhenItComesBack(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	better, good := &road{hub: h, name: "better", silent: true}, &road{hub: h, name: "good"}
	var change atomic.Pointer[func(bool)]
	c := start(t, h, func(cfg *client.Config) {
		cfg.Better, cfg.Dial = []client.Dialer{better.dial}, good.dial
		cfg.Network = func(ctx context.Context, changed func(bool)) { change.Store(&changed); <-ctx.Done() }
	})
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	better.block(false)
	(*change.Load())(false)
	until(t, func() bool { return c.Status().Protection.Carrier == "better" })
	say(t, conn, "hello")
	if st := c.Status(); st.Resumes != 1 || st.Passed != "" {
		t.Errorf("status %+v", st)
	}
}

// TestReasonIsToldOnceItIsKnown has a better way fail only after the other has
// long been taken.
func TestReasonIsToldOnceItIsKnown(t *testing.T) {
	h := newHub(t, nil)
	good := &road{hub: h, name: "good"}
	var change atomic.Pointer[func(bool)]
	dialled := false
	c := start(t, h, func(cfg *client.Config) {
		cfg.Better = []client.Dialer{func(ctx context.Context) (client.Carrier, error) {
			if !dialled { // one dial at a time
				dialled = true
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, io.ErrNoProgress
		}}
		cfg.Dial = good.dial
		cfg.Network = func(ctx context.Context, changed func(bool)) { change.Store(&changed); <-ctx.Done() }
	})
	c.connect(t).Close()
	(*change.Load())(false)
	until(t, func() bool { return c.Status().Passed == io.ErrNoProgress.Error() })
	if st := c.Status(); !st.Connected || st.Resumes != 0 {
		t.Errorf("status %+v", st)
	}
}
