// Package server is the exit: it admits the sessions of enrolled devices and
// carries out what they ask for with real sockets.
package server

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/quota"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// What holds if the configuration does not say.
const (
	DefaultSessions     = 10_000
	DefaultUserStreams  = 10_000
	DefaultUserBinds    = 64
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

	Sessions       int // how many there may be at once, attached or not; 0 means DefaultSessions
	SessionStreams int // how many streams each lane of one may have open; 0 means tunnel.DefaultStreams
	UserStreams    int // how many the sessions of one user may have together; 0 means DefaultUserStreams
	UserBinds      int // how many of them may be ports that wait for a peer; 0 means DefaultUserBinds

	// Grace is how long a session outlives its last carrier, unless its user has a
	// grace of its own. 0 means DefaultGrace; negative: it ends with its carrier.
	Grace time.Duration

	// ReplayMemory is how many bytes all sessions together may keep, so that they can
	// be sent again on another carrier. 0 means DefaultReplayMemory.
	ReplayMemory int64

	// Elsewhere is asked about a carrier of an enrolled device whose session is not
	// known here, as Admit is. A nil answer means that nobody knows it. nil: there is
	// nobody to ask.
	Elsewhere func(ctx context.Context, a tunnel.Arrival) (answer []byte, serve func(context.Context, net.Conn))

	// Bandwidth says what all flows and each user's get. The zero Bandwidth limits nothing.
	Bandwidth Bandwidth

	// Audit keeps the records of flows, sessions and logins. What it cannot record it may
	// refuse and end. nil: nothing is recorded.
	Audit *audit.Writer

	// Login says how apps at clients' doors log in. The zero Login lets nobody.
	Login Login

	// WireGuard is the server's public key for carriers over WireGuard, and WireGuardPort
	// the UDP port where it takes them; devices are told both. 0: it takes none.
	WireGuard     [32]byte
	WireGuardPort uint16

	// IPsec is where the server takes carriers over IPsec, without an address if that is its
	// own, and Key is what those know it by; devices are told both. Port 0: it takes none.
	IPsec netip.AddrPort
	Key   [32]byte

	// Policy decides what flows there may be, beside Relay. nil: Relay alone does.
	Policy *policy.Policy

	// Decider is asked about what Policy allows. nil: nobody is.
	Decider *decide.Decider

	// Log gets what happens to sessions, and a line for every flow that ends: at debug level
	// if it is on record in Audit. Targets are named at debug level only. nil means
	// slog.Default.
	Log *slog.Logger
}

// Server admits sessions and serves their streams. Its methods are safe for
// concurrent use.
type Server struct {
	cfg Config

	memory    *tunnel.Memory
	bandwidth *bandwidth
	quotas    *quota.Book
	counts    *counts
	refusals  refusals
	begun     chan *lane // to Serve, which runs them

	policy atomic.Pointer[policy.Policy] // nil: there is none
	again  chan struct{}                 // has an item when there is a flow that the decider is to be asked about again

	mu       sync.Mutex
	sessions map[[16]byte]*session
	devices  map[string]int // sessions by device key
	streams  map[string]int // by user
	binds    map[string]int // of those, ports that wait for a peer
	visits   map[*Visit]struct{}

	ruleFlows map[ruleFlows]int
	grace     time.Duration // as Config.Grace has it
	closed    bool          // no session is admitted any more
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
	if cfg.UserBinds == 0 {
		cfg.UserBinds = DefaultUserBinds
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
	s := &Server{
		cfg:       cfg,
		memory:    tunnel.NewMemory(int(cfg.ReplayMemory)),
		bandwidth: newBandwidth(cfg.Bandwidth),
		quotas:    quota.NewBook(usage{cfg.Users}),
		counts:    newCounts(),
		begun:     make(chan *lane),
		again:     make(chan struct{}, 1),
		sessions:  make(map[[16]byte]*session),
		devices:   make(map[string]int),
		streams:   make(map[string]int),
		binds:     make(map[string]int),
		visits:    make(map[*Visit]struct{}),
		ruleFlows: make(map[ruleFlows]int),
		grace:     cfg.Grace,
	}
	s.policy.Store(cfg.Policy)
	return s
}

// Serve runs the sessions that are admitted. It watches the store, and ends the
// sessions of devices that are revoked and users who are disabled or removed within
// 2 s. It returns when ctx ends, after all sessions have. Its error says that the store cannot
// be watched; by then every session has been ended, and none is admitted any more.
func (s *Server) Serve(ctx context.Context) error {
	defer s.keepQuotas(context.WithoutCancel(ctx)) // the last flows have ended
	defer holdPlain()()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sessions.Go(func() { s.watchClock(ctx) })
	sessions.Go(func() { s.watchDecider(ctx) })
	sessions.Go(func() { s.serveQuotas(ctx) })
	watched := make(chan error, 1)
	sessions.Go(func() { watched <- s.cfg.Users.Watch(ctx, func() { s.review(ctx) }) })
	for {
		select {
		case l := <-s.begun:
			sessions.Go(func() { l.run(ctx) })
		case err := <-watched:
			s.close()
			for _, v := range s.allVisits() {
				v.over(tunnel.RefusedBusy)
			}
			if err != nil {
				s.endAll(func(*session) tunnel.Refusal { return tunnel.RefusedBusy })
			}
			return err
		}
	}
}

// graceOf is how long the sessions of a user outlive their last carrier.
func (s *Server) graceOf(u users.User) time.Duration {
	if u.Grace != nil {
		return *u.Grace
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.grace, 0)
}

// SetGrace changes Config.Grace, for sessions that lose their carrier from now
// on.
func (s *Server) SetGrace(d time.Duration) {
	s.mu.Lock()
	s.grace = cmp.Or(d, DefaultGrace)
	s.mu.Unlock()
	for _, sess := range s.all() {
		sess.setGrace(s.graceOf(sess.currentUser()))
	}
}

// enter books a lane, and its session if that is new and there is room for it. A
// session that is over stays so.
func (s *Server) enter(l *lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || l.session.lanes[l.number] != nil:
		return false
	case s.sessions[l.id] == nil && (l.session.booked || !s.book(l.session)):
		return false
	}
	l.session.lanes[l.number] = l
	return true
}

// book books a session, if there is room for it. The caller holds mu.
func (s *Server) book(sess *session) bool {
	surplus, full := s.surplus(sess.device)
	if full && surplus == nil {
		return false
	}
	if surplus != nil {
		surplus.fail(errDisplaced)
		s.remove(surplus)
	}
	s.sessions[sess.id] = sess
	sess.booked = true
	s.devices[string(sess.device.Key)]++
	return true
}

var errDisplaced = errors.New("it had no carrier, and others needed its place")

// leave takes a lane out of the books, and tells whether its session is over
// with it.
func (s *Server) leave(l *lane) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.session.lanes[l.number] = nil
	l.session.past.Add(l.tun.Stats())
	l.session.past.resumes += l.resumes()
	if l.session.lanes != [tunnel.MaxLanes]*lane{} {
		return false
	}
	s.remove(l.session)
	return true
}

// remove takes a session out of the books, if it is there. The caller holds mu.
func (s *Server) remove(sess *session) {
	if s.sessions[sess.id] != sess {
		return
	}
	delete(s.sessions, sess.id)
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
func (s *Server) takeStream(user string) bool { return s.count(s.streams, user, s.cfg.UserStreams) }

func (s *Server) dropStream(user string) { s.discount(s.streams, user) }

// takeBind counts a port of a user's that waits for a peer, if it may have one more.
func (s *Server) takeBind(user string) bool { return s.count(s.binds, user, s.cfg.UserBinds) }

func (s *Server) dropBind(user string) { s.discount(s.binds, user) }

func (s *Server) count(of map[string]int, user string, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of[user] >= limit {
		return false
	}
	of[user]++
	return true
}

func (s *Server) discount(of map[string]int, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of[user]--; of[user] == 0 {
		delete(of, user)
	}
}

// review ends the sessions and visits that would not be admitted any more, and gives the others
// what bandwidth they get.
func (s *Server) review(ctx context.Context) {
	s.reviewBandwidth(ctx)
	s.reviewVisits(ctx)
	s.endAll(func(sess *session) tunnel.Refusal {
		refusal := s.judge(ctx, sess)
		if ctx.Err() != nil {
			return 0 // the server is stopping, and what judge says is of no worth
		}
		return refusal
	})
}

// judge tells why a session may not go on; 0 if it may. A store that gives no
// answer gives no permission. What its user may have changed since is taken over.
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
	if refusal := standing(device, user); refusal != 0 {
		return refusal
	}
	if sess.setUser(user) {
		sess.judgeFlows()
	}
	sess.setGrace(s.graceOf(user))
	return 0
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
	return slices.Collect(maps.Values(s.sessions))
}

// Drain admits no more sessions, tells those there are to open no more
// streams, and waits until all streams have ended or ctx does. Sessions that have no
// carrier may still get one.
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
	Remote     netip.AddrPort // of the last carrier of the first lane that has one
	Since      time.Time
	Lanes      int
	Carriers   int       // lanes that have one
	Detached   time.Time // when it lost its last carrier; zero if it has one
	Lost       string    // why, in words
	Resumes    int       // how often a carrier took over from another
	Replayed   int64     // bytes that were sent again, in all
	Held       int       // bytes of memory with what may have to be sent again
	Streams    int       // open now
	Opened     uint64
	Up, Down   int64         // bytes from and to the apps
	RoundTrip  time.Duration // the shortest of the lanes
	Protection tunnel.Protection
	Below      []string // what protects the path below, as in [tunnel.Arrival]
}

// Status gives the sessions of this moment, the oldest first.
func (s *Server) Status() []Status {
	all := s.all()
	slices.SortFunc(all, func(a, b *session) int { return a.since.Compare(b.since) })
	status := make([]Status, 0, len(all))
	for _, sess := range all {
		if st, ok := sess.status(); ok {
			status = append(status, st)
		}
	}
	return status
}
