// Package server is the exit: it admits the sessions of enrolled devices and
// carries out what they ask for with real sockets.
package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// What holds if the configuration does not say.
const (
	DefaultSessions     = 10_000
	DefaultUserStreams  = 10_000
	DefaultGrace        = 10 * time.Minute
	DefaultReplayMemory = 256 << 20
)

// deviceSessions is how many sessions one device may have at once, so that none
// takes all there are. A device has several while it drains one, and where
// several commands run on it.
const deviceSessions = 64

// Config says whom a server serves, and how. Users and Relay are needed.
type Config struct {
	Users *users.Store
	Relay socks.Relay // carries out the requests; an [Exit]

	Sessions       int // how many may be attached at once; 0 means DefaultSessions
	SessionStreams int // how many streams each may have open; 0 means tunnel.DefaultStreams
	UserStreams    int // how many the sessions of one user may have together; 0 means DefaultUserStreams

	// Grace is how long a session outlives its last carrier, unless its user has a
	// grace of its own. 0 means DefaultGrace; negative: it ends with its carrier.
	Grace time.Duration

	// ReplayMemory is how many bytes all sessions together may keep, so that they can
	// be sent again on another carrier. 0 means DefaultReplayMemory.
	ReplayMemory int64

	// Log gets a line for every flow that ends, and what happens to sessions. Targets
	// are named at debug level only. nil means slog.Default.
	Log *slog.Logger
}

// Server admits sessions and serves their streams. Its methods are safe for
// concurrent use.
type Server struct {
	cfg Config

	mu       sync.Mutex
	sessions map[*session]bool
	devices  map[string]int // sessions by device key
	streams  map[string]int // by user
	closed   bool           // no session is admitted any more
}

// New gives a server. Nothing happens before Serve and Admit.
func New(cfg Config) *Server {
	if cfg.Sessions == 0 {
		cfg.Sessions = DefaultSessions
	}
	if cfg.SessionStreams == 0 {
		cfg.SessionStreams = tunnel.DefaultStreams
	}
	if cfg.UserStreams == 0 {
		cfg.UserStreams = DefaultUserStreams
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.ReplayMemory == 0 {
		cfg.ReplayMemory = DefaultReplayMemory
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Server{
		cfg:      cfg,
		sessions: make(map[*session]bool),
		devices:  make(map[string]int),
		streams:  make(map[string]int),
	}
}

// Serve watches the store and ends the sessions of devices that are revoked
// and users who are disabled or removed, within 2 s. It returns when ctx ends.
// Its error says that the store cannot be watched; by then every session has
// been ended, and none is admitted any more.
func (s *Server) Serve(ctx context.Context) error {
	err := s.cfg.Users.Watch(ctx, func() { s.review(ctx) })
	if err != nil {
		s.close()
		s.endAll(func(*session) tunnel.Refusal { return tunnel.RefusedBusy })
	}
	return err
}

// Admit judges an opening. If answer is nil it is none of an enrolled device,
// and whoever sent it is told nothing. Otherwise the answer is to be sent; then
// serve, if it is not nil, runs the session on the carrier's conn until its end. Nothing
// is held for a session whose serve is never called.
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
		return nil, nil
	}
	log := s.cfg.Log.With("user", user.Name, "device", device.Name, "remote", a.Remote)
	refusal := standing(device, user)
	switch {
	case refusal != 0:
	case opening.Hello.Session != [16]byte{}:
		refusal = tunnel.RefusedSession // every carrier begins a session of its own
	case s.full(device):
		refusal = tunnel.RefusedBusy
	}
	if refusal != 0 {
		log.Warn("session refused", "reason", refusal)
		return refusal.Bytes(), nil
	}
	sess := &session{server: s, device: device, user: user, arrival: a, log: log, since: time.Now()}
	rand.Read(sess.id[:])
	welcome := tunnel.Welcome{Session: sess.id, Epoch: opening.Hello.Epoch, Streams: uint32(s.cfg.SessionStreams)}
	return welcome.Bytes(), sess.serve
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
		return tunnel.Welcome{}.Bytes()
	case errors.Is(err, users.ErrInviteUnknown):
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
	return refusal.Bytes()
}

// full tells whether there is no room for a session of a device.
func (s *Server) full(d users.Device) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isFull(d)
}

// isFull is full for a caller who holds mu.
func (s *Server) isFull(d users.Device) bool {
	return s.closed || len(s.sessions) >= s.cfg.Sessions || s.devices[string(d.Key)] >= deviceSessions
}

// enter books a session, if there is room for it.
func (s *Server) enter(sess *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isFull(sess.device) {
		return false
	}
	s.sessions[sess] = true
	s.devices[string(sess.device.Key)]++
	return true
}

func (s *Server) leave(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess)
	key := string(sess.device.Key)
	if s.devices[key]--; s.devices[key] == 0 {
		delete(s.devices, key)
	}
}

// close admits no more sessions.
func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// takeStream counts a stream of a user's, if it may have one more.
func (s *Server) takeStream(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[user] >= s.cfg.UserStreams {
		return false
	}
	s.streams[user]++
	return true
}

func (s *Server) dropStream(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[user]--; s.streams[user] == 0 {
		delete(s.streams, user)
	}
}

// review ends the sessions that would not be admitted any more.
func (s *Server) review(ctx context.Context) {
	s.endAll(func(sess *session) tunnel.Refusal {
		refusal := s.judge(ctx, sess)
		if ctx.Err() != nil {
			return 0 // the server is stopping, and what judge says is of no worth
		}
		return refusal
	})
}

// judge tells why a session may not go on; 0 if it may. A store that gives no
// answer gives no permission.
func (s *Server) judge(ctx context.Context, sess *session) tunnel.Refusal {
	device, user, err := s.cfg.Users.Lookup(ctx, sess.device.Key)
	switch {
	case errors.Is(err, users.ErrDeviceUnknown):
		return tunnel.RefusedDeviceRevoked // its user has been removed, and it with him
	case err != nil:
		if ctx.Err() == nil {
			sess.log.Error("look up a device", "error", err)
		}
		return tunnel.RefusedBusy
	case user.Name != sess.user.Name:
		return tunnel.RefusedSession // removed, and enrolled anew for somebody else
	}
	return standing(device, user)
}

// endAll ends the sessions that reason has a reason to end. They are ended all
// at once: each may have a peer that does not listen, which takes a second.
func (s *Server) endAll(reason func(*session) tunnel.Refusal) {
	var ending sync.WaitGroup
	defer ending.Wait()
	for _, sess := range s.all() {
		if r := reason(sess); r != 0 {
			ending.Go(func() { sess.end(r) })
		}
	}
}

func (s *Server) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.sessions))
}

// Drain admits no more sessions, tells those there are to open no more
// streams, and waits until all streams have ended or ctx does.
func (s *Server) Drain(ctx context.Context) error {
	s.close()
	var sessions sync.WaitGroup
	for _, sess := range s.all() {
		sessions.Go(func() { sess.drain(ctx) })
	}
	sessions.Wait()
	return context.Cause(ctx)
}

// Status is what a server has to say about one session.
type Status struct {
	ID         string
	User       string
	Device     string
	Key        ed25519.PublicKey
	Remote     netip.AddrPort
	Since      time.Time
	Streams    int // open now
	Opened     uint64
	Up, Down   int64 // bytes from and to the apps
	RoundTrip  time.Duration
	Protection tunnel.Protection
}

// Status gives the sessions of this moment, the oldest first.
func (s *Server) Status() []Status {
	all := s.all()
	slices.SortFunc(all, func(a, b *session) int { return a.since.Compare(b.since) })
	status := make([]Status, len(all))
	for i, sess := range all {
		status[i] = sess.status()
	}
	return status
}
