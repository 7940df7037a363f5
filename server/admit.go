package server

import (
	"context"
	"errors"
	"math"
	"net"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
)

// Admit judges an opening. If answer is nil it is none of an enrolled device,
// and whoever sent it is told nothing. Otherwise the answer is to be sent; then
// serve, if it is not nil, lets the carrier's conn carry its lane of a session, a new one or
// one that goes on, until the carrier is lost. Nothing is held, and no live carrier is touched, for a
// carrier whose serve is never called. Serve must be running.
func (s *Server) Admit(ctx context.Context, a tunnel.Arrival) (answer []byte, serve func(context.Context, net.Conn)) {
	opening, err := tunnel.OpenAt(a.Opening, a.Place)
	switch {
	case err != nil:
		return nil, nil
	case opening.Join != nil:
		return s.enrol(ctx, a, opening.Join), nil
	}
	device, user, err := s.cfg.Users.Lookup(ctx, opening.Hello.Device)
	if err != nil {
		if !errors.Is(err, users.ErrDeviceUnknown) {
			s.cfg.Log.Error("look up a device", "remote", a.Remote, "error", err)
		}
		s.counts.attempted("device", true)
		return nil, nil
	}
	if device.Guest() || a.WireGuard != [32]byte{} && a.WireGuard != device.WireGuard {
		return nil, nil // it is one that has no sessions, or came through another device's door
	}
	c := &coming{Hello: *opening.Hello, arrival: &a}
	refusal := standing(device, user)
	if refusal == 0 {
		refusal = s.place(c, device, user)
	}
	if refusal == tunnel.RefusedSession && s.cfg.Elsewhere != nil {
		if answer, serve := s.cfg.Elsewhere(ctx, a); answer != nil {
			return answer, serve
		}
	}
	if refusal != 0 {
		s.refused(audit.Origin{User: user.Name, Device: device.Name, Carrier: a.Protection.Carrier}, a.Remote, "session", refusal)
		s.cfg.Log.Warn("session refused", "user", user.Name, "device", device.Name, "remote", a.Remote, "reason", refusal)
		return refusal.Bytes(), nil
	}
	welcome := tunnel.Welcome{
		Session:  c.lane.id,
		Epoch:    c.Epoch,
		Received: c.received,
		Streams:  uint32(s.cfg.SessionStreams),
		Grace:    uint32(math.Ceil(s.graceOf(user).Seconds())),
		Lanes:    tunnel.MaxLanes,

		WireGuard:     s.cfg.WireGuard,
		WireGuardPort: s.cfg.WireGuardPort,
		IPsec:         s.cfg.IPsec,
	}
	return welcome.Bytes(), c.serve
}

// coming is a carrier that has been let in and has not begun yet.
type coming struct {
	tunnel.Hello
	arrival  *tunnel.Arrival // is never changed
	lane     *lane
	fresh    bool   // it is the lane's first
	received uint64 // offset that the lane waits for
}

// first tells whether the carrier begins a session.
func (c *coming) first() bool { return c.Session == [16]byte{} }

// place finds the lane of a carrier, or makes one.
func (s *Server) place(c *coming, device users.Device, user users.User) tunnel.Refusal {
	switch {
	case c.Lane >= tunnel.MaxLanes:
		return tunnel.RefusedBusy
	case c.first() && s.full(device):
		return tunnel.RefusedBusy
	case c.first():
		c.lane, c.fresh = s.newSession(device, user).newLane(c.Lane, c.arrival), true
		return 0
	}
	s.mu.Lock()
	sess := s.sessions[c.Session]
	s.mu.Unlock()
	// To another device, and to another user, it does not exist.
	if sess == nil || !sess.device.Key.Equal(device.Key) || sess.user.Name != user.Name {
		return tunnel.RefusedSession
	}
	return sess.place(c)
}

// standing tells why a device that is known may not come in; 0 if it may.
func standing(d users.Device, u users.User) tunnel.Refusal {
	switch {
	case d.Revoked:
		return tunnel.RefusedDeviceRevoked
	case u.Disabled:
		return tunnel.RefusedUserDisabled
	}
	return 0
}

// enrol redeems an invite. A token that was never given out gets no answer.
func (s *Server) enrol(ctx context.Context, a tunnel.Arrival, j *tunnel.Join) []byte {
	device, err := s.cfg.Users.Join(ctx, j.Token, users.Device{Key: j.Device, WireGuard: j.WireGuard, Name: j.Name})
	log := s.cfg.Log.With("remote", a.Remote)
	refusal := tunnel.Refusal(0)
	switch {
	case err == nil:
		log.Info("device enrolled", "user", device.User, "device", device.Name)
		s.counts.attempted("invite", false)
		s.note(audit.Act, audit.Origin{User: device.User, Device: device.Name, Method: "invite"}, a.Remote, "device enrolled", nil)
		return tunnel.Welcome{WireGuard: s.cfg.WireGuard, WireGuardPort: s.cfg.WireGuardPort, IPsec: s.cfg.IPsec, Key: s.cfg.Key}.Bytes()
	case errors.Is(err, users.ErrInviteUnknown):
		s.counts.attempted("invite", true)
		return nil
	case errors.Is(err, users.ErrInviteExpired):
		refusal = tunnel.RefusedInviteExpired
	case errors.Is(err, users.ErrInviteUsed):
		refusal = tunnel.RefusedInviteUsed
	case errors.Is(err, users.ErrUserDisabled):
		refusal = tunnel.RefusedUserDisabled
	case errors.Is(err, users.ErrDeviceKnown):
		refusal = tunnel.RefusedDeviceKnown
	default:
		log.Error("enrol a device", "error", err)
		refusal = tunnel.RefusedBusy
	}
	log.Warn("enrolment refused", "reason", refusal)
	s.refused(audit.Origin{Method: "invite"}, a.Remote, "enrolment", refusal)
	return refusal.Bytes()
}

// full tells whether there is no room for a session of a device, not even in
// place of one that has no carrier.
func (s *Server) full(d users.Device) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	surplus, full := s.surplus(d)
	return full && surplus == nil
}

// surplus tells whether there are as many sessions as there may be, and which
// one can go: the longest without a carrier, of this device if it has too
// many. The caller holds mu.
func (s *Server) surplus(d users.Device) (surplus *session, full bool) {
	own := s.devices[string(d.Key)] >= deviceSessions
	switch {
	case s.closed:
		return nil, true
	case !own && len(s.sessions) < s.cfg.Sessions:
		return nil, false
	}
	var since time.Time
	for _, sess := range s.sessions {
		if own && !sess.device.Key.Equal(d.Key) {
			continue
		}
		if at, detached := sess.detached(); detached && (surplus == nil || at.Before(since)) {
			surplus, since = sess, at
		}
	}
	return surplus, true
}
