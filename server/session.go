package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
)

// session is one session that has been admitted.
type session struct {
	server *Server
	id     [16]byte
	device users.Device
	user   users.User
	log    *slog.Logger
	since  time.Time
	tun    *tunnel.Session

	mu      sync.Mutex
	now     users.User     // the user as the store had him last
	arrival tunnel.Arrival // of the last carrier
}

// idle is how long a client may be silent before it is asked whether it is
// there. It asks by itself before that.
const idle = 20 * time.Second

func (s *Server) newSession(device users.Device, user users.User) *session {
	sess := &session{server: s, device: device, user: user, now: user, since: time.Now()}
	rand.Read(sess.id[:])
	sess.log = s.cfg.Log.With("user", user.Name, "device", device.Name, "session", sess.name())
	sess.tun = tunnel.New(false, tunnel.Config{
		Handle:  sess.handle,
		Streams: s.cfg.SessionStreams,
		Grace:   s.graceOf(user),
		Idle:    idle,
		Memory:  s.memory,
		Log:     sess.log,
	})
	return sess
}

// serve lets the carrier's conn carry its session until it is lost.
func (c *coming) serve(ctx context.Context, conn net.Conn) {
	sess := c.session
	if c.fresh && !sess.enter(ctx) {
		conn.Close() // the client asks again, and is told
		return
	}
	carrier, err := sess.tun.Attach(conn, c.Epoch, c.Received)
	if err != nil {
		sess.log.Debug("carrier not attached", "remote", c.arrival.Remote, "error", err)
		conn.Close()
		return
	}
	sess.comes(c, carrier)
	if c.fresh && !sess.begin(ctx) {
		sess.server.leave(sess)
		sess.tun.Fail(context.Canceled)
	}
	// The session ends its carrier, and tells the client so. Whoever ends this
	// conn's listener ends the server, too.
	err = carrier.Serve(context.WithoutCancel(ctx))
	sess.goes(err)
}

// enter books the session, if it may still begin.
func (s *session) enter(ctx context.Context) bool {
	if !s.server.enter(s) {
		return false // others have been faster
	}
	// What has changed since the session was admitted no review has seen. From
	// now on one does.
	if s.server.judge(ctx, s) != 0 {
		s.server.leave(s)
		return false
	}
	return true
}

// begin hands the session to Serve.
func (s *session) begin(ctx context.Context) bool {
	select {
	case s.server.begun <- s:
		return true
	case <-ctx.Done():
		return false
	}
}

// comes notes down a carrier.
func (s *session) comes(c *coming, carrier *tunnel.Carrier) {
	s.mu.Lock()
	s.arrival = c.arrival
	s.mu.Unlock()
	if !c.fresh {
		s.log.Info("session resumed", "remote", c.arrival.Remote, "carrier", c.arrival.Protection.Carrier,
			"after", carrier.Gap.Round(time.Millisecond), "replayed", carrier.Replay)
	}
}

// goes notes down why a carrier was lost.
func (s *session) goes(why error) {
	if state, _ := s.tun.State(); state.Err == nil && !errors.Is(why, tunnel.ErrReplaced) {
		s.log.Info("session detached", "reason", why)
	}
}

// run runs the session until it ends.
func (s *session) run(ctx context.Context) {
	defer s.server.leave(s)
	var noting sync.WaitGroup
	defer noting.Wait()
	noting.Go(func() { s.note(ctx) })

	s.log.Info("session begun", "remote", s.last().Remote)
	err := s.tun.Serve(ctx)
	s.log.Info("session ended", "reason", err, "after", time.Since(s.since).Round(time.Millisecond))
}

// currentUser is the user as the store had him last.
func (s *session) currentUser() users.User {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *session) setUser(u users.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = u
}

// last is the arrival of the last carrier.
func (s *session) last() tunnel.Arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arrival
}

// note tells the store that the device is here. After a restart thousands come
// at once, and no stream of theirs has to wait for the disk.
func (s *session) note(ctx context.Context) {
	if err := s.server.cfg.Users.Seen(ctx, s.device.Key, s.since); err != nil && ctx.Err() == nil {
		s.log.Error("note when the device was seen", "error", err)
	}
}

// end ends the session and tells the client why.
func (s *session) end(reason tunnel.Refusal) {
	s.log.Warn("session is being ended", "reason", reason)
	s.tun.Close(reason)
}

// drain waits until the session's streams have ended or ctx has, and then ends
// the session.
func (s *session) drain(ctx context.Context) {
	if err := s.tun.Drain(ctx); err != nil {
		s.log.Debug("drain session", "error", err)
	}
	s.tun.Close(0)
}

// name is the session's id for logs. It gives nobody access to anything.
func (s *session) name() string { return hex.EncodeToString(s.id[:4]) }

func (s *session) status() Status {
	stats, arrival := s.tun.Stats(), s.last()
	state, _ := s.tun.State()
	status := Status{
		ID:         s.name(),
		User:       s.user.Name,
		Device:     s.device.Name,
		Key:        s.device.Key,
		Remote:     arrival.Remote,
		Since:      s.since,
		Resumes:    state.Resumes,
		Replayed:   state.Replayed,
		Held:       state.Held,
		Streams:    stats.Streams,
		Opened:     stats.Opened,
		Up:         stats.Received,
		Down:       stats.Sent,
		RoundTrip:  stats.RoundTrip,
		Protection: arrival.Protection,
	}
	if !state.Attached && state.Lost != nil {
		status.Detached, status.Lost = state.Since, state.Lost.Error()
	}
	return status
}
