package server

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// caller is on whose behalf requests are carried out. It stands before
// [Config.Relay] and is a [socks.Relay] itself: every flow passes it, whatever it
// came in by.
type caller struct {
	server *Server
	user   string
	who    func() policy.Who   // he is, and how he comes; without From that is as the request says
	more   func(*audit.Origin) // adds to who what only records say; nil: nothing
	resume func() int          // how often the way has changed; nil: never
	way    way                 // nil: nothing is known of it
	log    *slog.Logger
	sight  atomic.Pointer[sight]

	mu    sync.Mutex
	flows map[*flow]struct{}
	past  Usage // of the flows that have ended
	gone  error // why there are no more
}

func newCaller(s *Server, user string, who func() policy.Who, log *slog.Logger) *caller {
	return &caller{server: s, user: user, who: who, log: log, flows: make(map[*flow]struct{})}
}

var errUserStreams = &socks.Error{Code: socks.GeneralFailure, Err: errors.New("the user has too many streams open")}

// Connect connects to a target.
func (c *caller) Connect(ctx context.Context, r socks.Request) (relay.Conn, socks.Reply, error) {
	f, err := c.begin(ctx, r)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	request := f.request
	if f.heeded {
		request.Initial = nil // it waits for what rules say of it
	}
	if err := f.await(ctx, len(request.Initial)); err != nil {
		f.refused(err)
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	conn, reply, err := c.server.cfg.Relay.Connect(ctx, request)
	if err != nil {
		f.refused(err)
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	c.server.counts.connect.Observe(time.Since(f.began))
	f.went(int64(len(request.Initial))) // the target has them
	watched, err := f.connected(conn)
	if err == nil && len(request.Initial) < len(r.Initial) {
		err = f.say(ctx, watched, r.Initial)
	}
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	return watched, reply, nil
}

// begin counts a flow in, if its user may have one more and rules do not forbid it. It
// ends by refused, or with its conn.
func (c *caller) begin(ctx context.Context, r socks.Request) (*flow, error) {
	return c.beginTo(ctx, r, destinationOf(r))
}

// beginTo is begin where more is known of the destination than the request says.
func (c *caller) beginTo(ctx context.Context, r socks.Request, d destination) (*flow, error) {
	r.User = c.user
	f := newFlow(ctx, c, r, d)
	if err := c.enter(f); err != nil {
		return nil, err
	}
	// Rules that come from now on judge the flow again.
	if _, err := f.judge(); err != nil {
		f.refused(err)
		return nil, err
	}
	return f, nil
}

// enter counts a flow in, if its user may have one more.
func (c *caller) enter(f *flow) error {
	if err := f.record(); err != nil {
		f.note(err)
		return err
	}
	if !c.server.takeStream(c.user) {
		f.note(errUserStreams)
		return errUserStreams
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		c.server.dropStream(c.user)
		f.closeRecord(c.gone, socks.NotAllowed)
		return &socks.Error{Code: socks.NotAllowed, Err: c.gone}
	}
	f.part = c.server.bandwidth.part(c.user)
	c.flows[f] = struct{}{}
	c.server.counts.open.of(f.wish.command, other).Add(1)
	return nil
}

// all gives the flows of this moment.
func (c *caller) all() []*flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.flows))
}

// leave counts a flow out.
func (c *caller) leave(f *flow) {
	c.mu.Lock()
	delete(c.flows, f)
	c.past.add(f)
	c.mu.Unlock()
	c.server.counts.open.of(f.wish.command, other).Add(-1)
	f.part.close()
	f.mu.Lock()
	_ = f.settle() // it uses no more
	f.mu.Unlock()
	c.server.dropStream(c.user)
}

// Usage is what flows have used, as they count it.
type Usage struct {
	Flows    int // open now
	Opened   uint64
	Up, Down int64 // bytes from and to the apps
}

func (u *Usage) add(f *flow) {
	u.Opened++
	u.Up += f.up.Load()
	u.Down += f.down.Load()
}

func (c *caller) usage() Usage {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.past
	u.Flows = len(c.flows)
	for f := range c.flows {
		u.add(f)
	}
	return u
}

// end breaks all flows, and lets no more begin.
func (c *caller) end(reason error) {
	c.mu.Lock()
	c.gone = reason
	flows := slices.Collect(maps.Keys(c.flows))
	c.mu.Unlock()
	for _, f := range flows {
		f.cut(reason)
	}
}
