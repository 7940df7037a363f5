package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
)

// session is one session that has been admitted. It is over when its last lane
// is.
type session struct {
	server *Server
	id     [16]byte
	device users.Device
	user   users.User
	log    *slog.Logger
	since  time.Time
	ports  ports
	logins logins
	line   audit.Record // what its own one began with; set before there is an entry

	sheltered atomic.Int64 // flows by rules that require IPsec
	underway  atomic.Int64 // pieces of these that are being handed over

	// Under the server's mu.
	booked bool                   // it has begun, and may be over by now
	lanes  [tunnel.MaxLanes]*lane // by number; nil: there is none
	past   pastLanes              // of lanes that have ended
	now    users.User             // the user as the store had him last
	entry  *audit.Entry           // nil: the session is not recorded
}

// pastLanes is what lanes had to say that have ended.
type pastLanes struct {
	tunnel.Stats
	resumes int
}

func (s *Server) newSession(device users.Device, user users.User) *session {
	sess := &session{server: s, device: device, user: user, now: user, since: time.Now()}
	rand.Read(sess.id[:])
	sess.log = s.cfg.Log.With("user", user.Name, "device", device.Name, "session", sess.name())
	return sess
}

// place finds the lane of a carrier, or makes one.
func (s *session) place(c *coming) tunnel.Refusal {
	s.server.mu.Lock()
	l, closed := s.lanes[c.Lane], s.server.closed
	s.server.mu.Unlock()
	switch {
	case l == nil && (c.Epoch != 1 || c.Received != 0):
		return tunnel.RefusedSession // it goes on with a lane that has ended
	case l == nil && closed:
		return tunnel.RefusedBusy
	case l == nil:
		c.lane, c.fresh = s.newLane(c.Lane, c.arrival), true
		return 0
	}
	var err error
	c.lane = l
	c.received, err = l.tun.Judge(c.Epoch, c.Received)
	switch {
	case errors.Is(err, tunnel.ErrStale):
		return tunnel.RefusedStale
	case err != nil:
		return tunnel.RefusedSession
	case !l.withholds(c):
		return 0
	case s.sheltered.Load() > 0:
		return tunnel.RefusedBusy // until these go on, or have ended
	}
	return tunnel.RefusedSession
}

// open gives the lanes of this moment in order, and what those had to say that
// have ended.
func (s *session) open() (lanes []*lane, past pastLanes) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	for _, l := range s.lanes {
		if l != nil {
			lanes = append(lanes, l)
		}
	}
	return lanes, s.past
}

// each calls f for all lanes at once, and waits: each lane may have a peer that
// does not listen.
func (s *session) each(f func(*lane)) {
	var calls sync.WaitGroup
	defer calls.Wait()
	lanes, _ := s.open()
	for _, l := range lanes {
		calls.Go(func() { f(l) })
	}
}

// detached tells whether no lane has a carrier any more, and since when. The
// caller holds the server's mu.
func (s *session) detached() (since time.Time, ok bool) {
	for _, l := range s.lanes {
		if l == nil {
			continue
		}
		state, _ := l.tun.State()
		if state.Attached || state.Lost == nil {
			return time.Time{}, false
		}
		if state.Since.After(since) {
			since = state.Since
		}
	}
	return since, true
}

// note tells the store that the device is here. After a restart thousands come
// at once, and no stream of theirs has to wait for the disk.
func (s *session) note(ctx context.Context, at time.Time) {
	if err := s.server.cfg.Users.Seen(ctx, s.device.Key, at); err != nil && ctx.Err() == nil {
		s.log.Error("note when the device was seen", "error", err)
	}
}

// end ends the session and tells the client why.
func (s *session) end(reason tunnel.Refusal) {
	s.log.Warn("session is being ended", "reason", reason)
	s.each(func(l *lane) { l.tun.Close(reason) })
}

// drain waits until the session's streams have ended or ctx has, and then ends
// the session.
func (s *session) drain(ctx context.Context) {
	s.each(func(l *lane) {
		if err := l.tun.Drain(ctx); err != nil {
			l.log.Debug("drain", "error", err)
		}
		l.tun.Close(0)
	})
}

// fail ends the session at once; the client learns only that it has ended. The
// caller holds the server's mu.
func (s *session) fail(why error) {
	for _, l := range s.lanes {
		if l != nil {
			l.tun.Fail(why)
		}
	}
}

// currentUser is the user as the store had him last.
func (s *session) currentUser() users.User {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	return s.now
}

// setUser tells whether rules may see the user otherwise than before.
func (s *session) setUser(u users.User) (changed bool) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	changed = !slices.Equal(s.now.Groups, u.Groups)
	s.now = u
	return changed
}

// path is how rules see where the session's lanes come from and how they are protected: what
// not all of them have in common is left out.
func (s *session) path() policy.Who {
	var common policy.Who
	lanes, _ := s.open()
	for i, l := range lanes {
		w := pathOf(l.last())
		if i == 0 {
			common = w
		}
		if w.From != common.From {
			common.From = netip.Addr{}
		}
		common.Protection = slices.DeleteFunc(common.Protection, func(word string) bool { return !slices.Contains(w.Protection, word) })
		if w.Cipher != common.Cipher {
			common.Cipher = ""
		}
	}
	return common
}

// pathOf is how rules see where a carrier comes from, and how what it carries is protected: by
// it, and below it.
func pathOf(a *tunnel.Arrival) policy.Who {
	w := policy.Who{From: a.Remote.Addr(), Cipher: a.Protection.Cipher}
	switch a.Protection.Carrier {
	case "tls", "wireguard":
		w.Protection = []string{a.Protection.Carrier}
	}
	if a.Below != nil {
		w.Protection = append(w.Protection, a.Below()...)
	}
	return w
}

func (s *session) setGrace(d time.Duration) {
	s.each(func(l *lane) { l.tun.SetGrace(d) })
}

// name is the session's id for logs. It gives nobody access to anything.
func (s *session) name() string { return hex.EncodeToString(s.id[:4]) }

// status says how the session is doing; ok tells whether it is not over. It may
// still pass on what came before, then.
func (s *session) status() (st Status, ok bool) {
	st = Status{ID: s.name(), User: s.user.Name, Device: s.device.Name, Key: s.device.Key, Since: s.since}
	lanes, past := s.open()
	stats := past.Stats
	st.Resumes = past.resumes
	for _, l := range lanes {
		stats.Add(l.tun.Stats())
		if l.tun.Err() == nil {
			l.describe(&st)
		}
	}
	if st.Carriers > 0 {
		st.Detached, st.Lost = time.Time{}, ""
	}
	st.Streams, st.Opened, st.RoundTrip = stats.Streams, stats.Opened, stats.RoundTrip
	st.Up, st.Down = stats.Received, stats.Sent
	return st, st.Lanes > 0
}
