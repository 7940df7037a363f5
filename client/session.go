package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
)

// session is a session with the server: one lane, or several that share its
// streams among them. It is over when its last lane is.
type session struct {
	client   *Client
	id       [16]byte
	began    time.Time
	draining chan struct{} // closed when the server takes no more streams
	over     chan struct{} // closed when err is set

	mu      sync.Mutex
	lanes   []*lane // by number; nil: not begun yet. One that has ended stays until it is begun anew
	left    int     // lanes that have not ended
	changed chan struct{}
	past    Status            // figures of lanes that are no more in lanes
	err     error             // why the session is over
	logins  map[string][]byte // by user, what refers to his login
}

// begin begins a session with its first lane.
func (c *Client) begin(ctx context.Context) (*session, error) {
	s := &session{
		client:   c,
		began:    time.Now(),
		draining: make(chan struct{}),
		over:     make(chan struct{}),
		changed:  make(chan struct{}),
	}
	first, welcome, err := s.begin(ctx, 0)
	if err != nil {
		return nil, err
	}
	s.id = welcome.Session
	s.lanes = make([]*lane, max(1, min(c.cfg.Lanes, int(welcome.Lanes), tunnel.MaxLanes)))
	s.join(first)
	return s, nil
}

// attach says who this is on a carrier, and gives what the server answered.
func (c *Client) attach(ctx context.Context, carrier Carrier, hello tunnel.Hello) (net.Conn, tunnel.Welcome, error) {
	conn, answer, err := carrier.Attach(ctx, hello.Sign(c.cfg.Device, carrier.Place()))
	if err != nil {
		carrier.Close()
		return nil, tunnel.Welcome{}, err
	}
	welcome, err := tunnel.ParseAnswer(answer)
	if err != nil {
		conn.Close()
		return nil, welcome, fmt.Errorf("attach to the server: %w", err)
	}
	if c.cfg.Welcomed != nil {
		c.cfg.Welcomed(welcome)
	}
	return conn, welcome, nil
}

// run keeps the session's lanes until it is over, and says why it is.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var lanes sync.WaitGroup
	defer lanes.Wait()
	defer cancel()
	first := s.lanes[0]
	lanes.Go(func() {
		s.leave(first, first.run(ctx))
		s.hold(ctx, 0)
	})
	for number := 1; number < len(s.lanes); number++ {
		lanes.Go(func() { s.hold(ctx, byte(number)) })
	}
	<-s.over
	return s.err
}

// hold begins a lane, and again whenever it has ended alone.
func (s *session) hold(ctx context.Context, number byte) {
	var p pace
	for !s.closing() && ctx.Err() == nil {
		l, _, err := s.begin(ctx, number)
		if err == nil {
			began := time.Now()
			s.join(l)
			err = l.run(ctx)
			s.leave(l, err)
			if time.Since(began) > maxPause {
				p = pace{}
			}
		} else if final(err) {
			s.end(err)
		}
		if s.closing() || ctx.Err() != nil {
			return
		}
		wait := p.pause()
		s.client.cfg.Log.Warn("a lane is missing", "lane", number, "error", err, "retry_in", wait.Round(time.Millisecond))
		sleep(ctx, wait, s.client.stirs.next())
	}
}

// join adds a lane, in place of the one before.
func (s *session) join(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.lanes[l.number]; old != nil {
		old.count(&s.past)
	}
	s.lanes[l.number] = l
	s.left++
	s.change()
}

// leave notes that a lane has ended, and why. A reason that the server gives
// is one for all lanes, unless it is that it does not know this one.
func (s *session) leave(l *lane, why error) {
	select {
	case <-l.Draining():
		s.drain()
	default:
	}
	s.mu.Lock()
	l.ended = time.Now()
	s.left--
	last := s.left == 0
	s.mu.Unlock()
	refusal, refused := errors.AsType[tunnel.Refusal](why)
	if last || refused && refusal != tunnel.RefusedSession {
		s.end(why)
	}
}

// end ends the session for a reason; the first one counts.
func (s *session) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = why
		close(s.over)
		s.change()
	}
}

// drain lets the streams go on that there are, and no more come.
func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !closed(s.draining) {
		close(s.draining)
		s.change()
	}
}

// closing tells whether no lane is begun any more.
func (s *session) closing() bool { return closed(s.over) || closed(s.draining) }

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// tell tells those who wait for a lane to look again, and change does so for a
// caller who holds mu.
func (s *session) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change()
}

func (s *session) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// open opens a stream in the lane with the least to do. It waits while no lane
// has a carrier; the error is then [tunnel.ErrDetached].
func (s *session) open(ctx context.Context) (*lane, *tunnel.Stream, error) {
	for {
		l, changed, err := s.choose()
		if err != nil {
			return nil, nil, err
		}
		if l != nil {
			stream, err := l.OpenQuietly(ctx)
			s.opened(l)
			if !errors.Is(err, tunnel.ErrSessionLost) {
				return l, stream, err
			}
			continue // in another lane
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, errors.Join(tunnel.ErrDetached, context.Cause(ctx))
		}
	}
}

// choose chooses the lane for a new stream: the one with the least to do. It gives
// nil if none can have one until changed is closed; opened must be called otherwise.
func (s *session) choose() (l *lane, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, nil, tunnel.ErrSessionLost
	case closed(s.draining):
		return nil, nil, tunnel.ErrDraining
	}
	for _, x := range s.lanes {
		if x != nil && x.usable() && (l == nil || less(x.load(), l.load())) {
			l = x
		}
	}
	if l != nil {
		l.opening++
	}
	return l, s.changed, nil
}

func less(a, b [3]int) bool { return slices.Compare(a[:], b[:]) < 0 }

// opened says that a stream has been opened in the chosen lane, or not.
func (s *session) opened(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.opening--
}

// Err says why the session is over; nil if it is not.
func (s *session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// protected is the protection of the first lane's last carrier.
func (s *session) protected() tunnel.Protection {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lanes[0].protected()
}

// streams is how many streams are open.
func (s *session) streams() int {
	var st Status
	s.describe(&st)
	return st.Streams
}

// describe adds what the session knows to a status.
func (s *session) describe(st *Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Lanes, st.Protection, st.Passed = len(s.lanes), s.lanes[0].protected(), s.lanes[0].passing()
	st.Local, st.Remote = s.lanes[0].ends()
	st.Opened, st.Resumes, st.Replayed = s.past.Opened, s.past.Resumes, s.past.Replayed
	st.Up, st.Down = s.past.Up, s.past.Down
	var away []time.Time
	for _, l := range s.lanes {
		since := s.began
		if l != nil {
			l.count(st)
			since = l.away()
		}
		if !since.IsZero() {
			away = append(away, since)
		}
	}
	st.Away = len(away)
	if st.Away > 0 {
		st.AwaySince = slices.MinFunc(away, time.Time.Compare)
	}
	if st.Away < st.Lanes {
		return
	}
	st.Connected, st.Detached, st.Since = false, true, slices.MaxFunc(away, time.Time.Compare)
	for _, l := range s.lanes {
		if l != nil && l.ended.IsZero() {
			l.excuse(st)
			return
		}
	}
}
