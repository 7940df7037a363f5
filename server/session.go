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

// session is one session that has been admitted. Nothing of it changes once
// it has been entered into the server's table.
type session struct {
	server  *Server
	id      [16]byte
	device  users.Device
	user    users.User
	arrival tunnel.Arrival
	log     *slog.Logger
	since   time.Time

	tun *tunnel.Session // set by serve
}

// serve runs the session until it ends.
func (s *session) serve(ctx context.Context, conn net.Conn) {
	s.tun = tunnel.NewSession(conn, false, tunnel.Config{
		Handle:  s.handle,
		Streams: s.server.cfg.SessionStreams,
		Log:     s.log,
	})
	if !s.server.enter(s) {
		conn.Close() // others have been faster; the client asks again, and is told
		return
	}
	defer s.server.leave(s)
	// What has changed since the session was admitted no review has seen. From
	// now on one does.
	if refusal := s.server.judge(ctx, s); refusal != 0 {
		conn.Close()
		return
	}
	var noting sync.WaitGroup
	defer noting.Wait()
	noting.Go(func() { s.note(ctx) })

	s.log.Info("session begun", "session", s.name())
	err := s.tun.Serve(ctx)
	s.log.Info("session ended", "session", s.name(), "reason", err, "after", time.Since(s.since).Round(time.Millisecond))
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
	s.log.Warn("session is being ended", "session", s.name(), "reason", reason)
	s.tun.Close(reason)
}

// drain waits until the session's streams have ended or ctx has, and then ends
// the session.
func (s *session) drain(ctx context.Context) {
	if err := s.tun.Drain(ctx); err != nil {
		s.log.Debug("drain session", "session", s.name(), "error", err)
	}
	s.tun.Close(0)
}

// name is the session's id for logs. It gives nobody access to anything.
func (s *session) name() string { return hex.EncodeToString(s.id[:4]) }

func (s *session) status() Status {
	stats := s.tun.Stats()
	return Status{
		ID:         s.name(),
		User:       s.user.Name,
		Device:     s.device.Name,
		Key:        s.device.Key,
		Remote:     s.arrival.Remote,
		Since:      s.since,
		Streams:    stats.Streams,
		Opened:     stats.Opened,
		Up:         stats.Received,
		Down:       stats.Sent,
		RoundTrip:  stats.RoundTrip,
		Protection: s.arrival.Protection,
	}
}
