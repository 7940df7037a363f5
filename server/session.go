package server

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
)

// session is one session that has been admitted.
type session struct {
	server  *Server
	id      [16]byte
	device  users.Device
	user    users.User
	arrival tunnel.Arrival
	log     *slog.Logger
	since   time.Time

	mu   sync.Mutex
	tun  *tunnel.Session // nil until the carrier's conn is there
	over tunnel.Refusal  // it has been ended before that
}

// serve runs the session until it ends.
func (s *session) serve(ctx context.Context, conn net.Conn) {
	defer s.server.leave(s)
	tun := tunnel.NewSession(conn, false, tunnel.Config{
		Handle:  s.handle,
		Streams: s.server.cfg.SessionStreams,
		Log:     s.log,
	})
	if refusal := s.begin(tun); refusal != 0 {
		conn.Close()
		return
	}
	if err := s.server.cfg.Users.Seen(ctx, s.device.Key, s.since); err != nil {
		s.log.Error("note when the device was seen", "error", err)
	}
	s.log.Info("session begun", "session", s.name())
	err := tun.Serve(ctx)
	s.log.Info("session ended", "session", s.name(), "reason", err, "after", time.Since(s.since).Round(time.Millisecond))
}

// begin makes the session known to end and drain. It gives the reason if it
// has been ended meanwhile.
func (s *session) begin(tun *tunnel.Session) tunnel.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tun = tun
	return s.over
}

func (s *session) running() *tunnel.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tun
}

// end ends the session and tells the client why.
func (s *session) end(reason tunnel.Refusal) {
	s.mu.Lock()
	s.over = reason
	tun := s.tun
	s.mu.Unlock()
	s.log.Warn("session is being ended", "session", s.name(), "reason", reason)
	if tun != nil {
		tun.Close(reason)
	}
}

func (s *session) drain(ctx context.Context) {
	if tun := s.running(); tun != nil {
		tun.Drain(ctx)
		tun.Close(0)
	}
}

// name is the session's id for logs. It gives nobody access to anything.
func (s *session) name() string { return hex.EncodeToString(s.id[:4]) }

func (s *session) status() Status {
	st := Status{
		ID:         s.name(),
		User:       s.user.Name,
		Device:     s.device.Name,
		Key:        s.device.Key,
		Remote:     s.arrival.Remote,
		Since:      s.since,
		Protection: s.arrival.Protection,
	}
	if tun := s.running(); tun != nil {
		stats := tun.Stats()
		st.Streams, st.Opened, st.RoundTrip = stats.Streams, stats.Opened, stats.RoundTrip
		st.Up, st.Down = stats.Received, stats.Sent
	}
	return st
}
