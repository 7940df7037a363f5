package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/udp"
)

// lane is one of a session's pipes, with the streams in it. Most sessions have
// one. It is attached, detached and ends by itself.
type lane struct {
	*session
	number byte
	log    *slog.Logger
	tun    *tunnel.Session
	caller *caller // makes the flows that the streams ask for

	associations *udp.Mux
	taken        atomic.Int64 // how often a carrier took over from another

	owed atomic.Uint64 // the offset up to which only protected carriers may carry what they do

	attaching sync.Mutex // one carrier at a time

	mu      sync.Mutex
	arrival *tunnel.Arrival // of the last carrier; is never changed
}

// idle is how long a client may be silent before it is asked whether it is
// there. It asks by itself before that.
const idle = 25 * time.Second

func (s *session) newLane(number byte, first *tunnel.Arrival) *lane {
	l := &lane{session: s, number: number, log: s.log, arrival: first}
	if number > 0 {
		l.log = s.log.With("lane", number)
	}
	l.caller = newCaller(s.server, s.user.Name, l.who, l.log)
	l.caller.more, l.caller.resume, l.caller.way = l.origin, l.resumes, l
	l.tun = tunnel.New(false, tunnel.Config{
		Handle:  l.handle,
		Streams: s.server.cfg.SessionStreams,
		Grace:   s.server.graceOf(s.currentUser()),
		Idle:    idle,
		Memory:  s.server.memory,
		Log:     l.log,
	})
	l.associations = udp.New(l.tun)
	return l
}

// serve lets the carrier's conn carry its lane until it is lost.
func (c *coming) serve(ctx context.Context, conn net.Conn) {
	l := c.lane
	if c.fresh && !l.enter(ctx) {
		conn.Close() // the client asks again, and is told
		return
	}
	carrier, err := l.attach(c, conn)
	if err != nil {
		l.log.Debug("carrier not attached", "remote", c.arrival.Remote, "error", err)
		if c.fresh {
			l.leave()
			l.tun.Fail(err)
		}
		conn.Close()
		return
	}
	if err := l.start(ctx, c); err != nil {
		l.leave()
		l.tun.Fail(err)
	}
	// The lane ends its carrier, and tells the client so. Whoever ends this
	// conn's listener ends the server, too.
	err = carrier.Serve(context.WithoutCancel(ctx))
	l.server.counts.carriers.of(c.arrival.Protection.Carrier, other).Add(-1)
	l.goes(err)
}

// enter books the lane, if it may still begin.
func (l *lane) enter(ctx context.Context) bool {
	if !l.server.enter(l) {
		return false // others have been faster
	}
	// What has changed since the lane was admitted no review has seen. From
	// now on one does.
	if l.server.judge(ctx, l.session) != 0 {
		l.leave()
		return false
	}
	return true
}

// leave takes the lane out of its session, and tells whether that is over.
func (l *lane) leave() (last bool) {
	if l.server.leave(l) {
		return true
	}
	l.session.judgeFlows() // what is left may have more in common
	return false
}

// start begins the lane if the carrier is its first.
func (l *lane) start(ctx context.Context, c *coming) error {
	if !c.fresh {
		return nil
	}
	if c.first() {
		if err := l.record(); err != nil {
			return err
		}
	}
	select {
	case l.server.begun <- l:
		return nil
	case <-ctx.Done():
		l.closeRecord(ctx.Err())
		return ctx.Err()
	}
}

// comes notes down a carrier.
func (l *lane) comes(c *coming, carrier *tunnel.Carrier) {
	l.arrives(c.arrival)
	counts := l.server.counts
	counts.carriers.of(c.arrival.Protection.Carrier, other).Add(1)
	counts.arrivals.of(c.arrival.Protection.Carrier, other).Add(1)
	if !c.fresh {
		l.taken.Add(1)
	}
	if !c.first() {
		l.session.judgeFlows() // it may come from elsewhere, or be protected otherwise
	}
	switch {
	case !c.fresh:
		counts.resumed(carrier)
		l.log.Info("resumed", "remote", c.arrival.Remote, "carrier", c.arrival.Protection.Carrier,
			"after", carrier.Gap.Round(time.Millisecond), "replayed", carrier.Replay)
	case c.first():
		counts.attempted("device", false)
		l.log.Info("session begun", "remote", c.arrival.Remote)
	default:
		l.log.Info("lane begun", "remote", c.arrival.Remote)
	}
}

// goes notes down why a carrier was lost.
func (l *lane) goes(why error) {
	if state, _ := l.tun.State(); state.Err == nil && !errors.Is(why, tunnel.ErrReplaced) {
		l.log.Info("detached", "reason", why)
	}
}

// who is how rules see whoever the lane's streams come from.
func (l *lane) who() policy.Who {
	user := l.currentUser()
	w := pathOf(l.last())
	w.User, w.Groups, w.Device = user.Name, user.Groups, l.device.Name
	w.Door, w.Method = "session", "device"
	return w
}

// last is the arrival of the last carrier.
func (l *lane) last() *tunnel.Arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrival
}

// run runs the lane until it ends.
func (l *lane) run(ctx context.Context) {
	began := time.Now()
	var noting sync.WaitGroup
	defer noting.Wait()
	noting.Go(func() { l.note(ctx, began) })
	noting.Go(func() { _ = l.associations.Serve(ctx) }) // tun's error says it all

	err := l.tun.Serve(ctx)
	if l.leave() {
		l.logins.end()
		l.closeRecord(err)
		l.log.Info("session ended", "reason", err, "after", time.Since(l.since).Round(time.Millisecond))
	} else {
		l.log.Info("lane ended", "reason", err, "after", time.Since(began).Round(time.Millisecond))
	}
}

// describe adds what the lane knows to its session's status.
func (l *lane) describe(st *Status) {
	state, _ := l.tun.State()
	if st.Lanes == 0 || state.Attached && st.Carriers == 0 {
		arrival := l.last()
		st.Remote, st.Protection = arrival.Remote, arrival.Protection
		if arrival.Below != nil {
			st.Below = arrival.Below()
		}
	}
	st.Lanes++
	st.Resumes += l.resumes()
	st.Replayed += state.Replayed
	st.Held += state.Held
	switch {
	case state.Attached:
		st.Carriers++
	case state.Lost != nil && state.Since.After(st.Detached):
		st.Detached, st.Lost = state.Since, state.Lost.Error()
	}
}
