// Package guest keeps the register of guests: devices that run no adit, and come over
// WireGuard by themselves. It knows which of them are here, and lets what they do pass
// for their users'.
package guest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/users"
)

const (
	// away is how long a guest that has nothing open may be silent before it has left.
	// WireGuard's keys are good for as long.
	away = 3 * time.Minute

	// sweepPeriod is how often it is looked for those that have left.
	sweepPeriod = 30 * time.Second

	// again is how soon it is tried again to let in a guest that was not.
	again = time.Second
)

// Config says what a register works with. Server and Users are needed.
type Config struct {
	Server *server.Server
	Users  *users.Store

	// Present tells where guests are, and when they were last heard of. nil: nobody
	// knows, and all stay until they may not come any more.
	Present func() map[[32]byte]Presence

	// Below follows what protects the path below WireGuard to where a guest is, in the
	// words that rules have for it, until stop. nil: nothing is known of that.
	Below func(place func() netip.AddrPort) (words func() []string, stop func())

	Log *slog.Logger // nil: nothing is logged
}

// Presence says where a guest is.
type Presence struct {
	Remote netip.AddrPort
	Heard  time.Time
}

// Register knows which guests may come, and which are here. Its methods are safe for
// concurrent use.
type Register struct {
	cfg     Config
	arrived chan struct{} // holds an item while there is somebody in fresh

	mu     sync.Mutex // guards what follows
	known  map[[32]byte]users.Device
	stays  map[[32]byte]*stay
	fresh  [][32]byte // have come, and the store has not been told
	closed bool
}

// stay is a guest that is here, or that was not let in.
type stay struct {
	visit  *server.Visit // nil if it was not let in
	remote netip.AddrPort
	since  time.Time
	stop   func() // following its path; nil if nobody does
	err    error
}

// NewRegister makes a register that knows no guest.
func NewRegister(cfg Config) *Register {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Register{
		cfg:     cfg,
		arrived: make(chan struct{}, 1),
		known:   map[[32]byte]users.Device{},
		stays:   map[[32]byte]*stay{},
	}
}

// Set says which guests may come. The visits of others end.
func (r *Register) Set(guests []users.Device) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = make(map[[32]byte]users.Device, len(guests))
	for _, d := range guests {
		r.known[d.WireGuard] = d
	}
	for key, s := range r.stays {
		if _, known := r.known[key]; !known {
			r.leave(key, s)
		}
	}
}

var errUnknown = errors.New("there is no such guest")

// Visit gives the visit of a guest, which begins with the first thing that the guest
// does. To begin it two rows of the store are read; otherwise it waits for nothing. place tells
// where the guest is, at any time until it has left.
func (r *Register) Visit(ctx context.Context, key [32]byte, place func() netip.AddrPort) (*server.Visit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.stays[key]; s != nil {
		if !s.stale() {
			return s.visit, s.err
		}
		r.leave(key, s)
	}
	device, known := r.known[key]
	if !known || r.closed {
		return nil, errUnknown
	}
	s := &stay{remote: place(), since: time.Now()}
	r.stays[key] = s
	below := func() []string { return nil }
	if r.cfg.Below != nil {
		below, s.stop = r.cfg.Below(place)
	}
	if s.visit, s.err = r.cfg.Server.Visit(ctx, server.Visitor{Device: device.Key, Came: came(below)}); s.err != nil {
		s.err = fmt.Errorf("let a guest in: %w", s.err)
		return nil, s.err
	}
	r.cfg.Log.Info("guest has come", "user", device.User, "device", device.Name, "remote", s.remote, "address", device.Address)
	r.fresh = append(r.fresh, key)
	select {
	case r.arrived <- struct{}{}:
	default: // nobody has looked yet
	}
	return s.visit, nil
}

// came says how guests come, over what is below.
func came(below func() []string) func() policy.Who {
	return func() policy.Who {
		return policy.Who{Door: "wireguard", Method: "guest", Protection: append([]string{"wireguard"}, below()...)}
	}
}

// stale tells whether it is time to try again.
func (s *stay) stale() bool {
	if s.visit != nil {
		select {
		case <-s.visit.Done():
		default:
			return false
		}
	}
	return time.Since(s.since) > again
}

// leave ends a stay. The caller holds mu.
func (r *Register) leave(key [32]byte, s *stay) {
	delete(r.stays, key)
	if s.stop != nil {
		defer s.stop()
	}
	if s.visit == nil {
		return
	}
	s.visit.Close()
	u := s.visit.Usage()
	r.cfg.Log.Info("guest has left", "user", s.visit.User(), "remote", s.remote, "flows", u.Opened, "up", u.Up, "down", u.Down)
}

// Serve sees guests off that have left, until ctx ends. Then it ends all visits, and
// lets none begin.
func (r *Register) Serve(ctx context.Context) {
	tick := time.NewTicker(sweepPeriod)
	defer tick.Stop()
	for {
		select {
		case <-r.arrived:
			r.see(ctx, r.newcomers())
		case now := <-tick.C:
			r.see(ctx, r.sweep(now))
		case <-ctx.Done():
			r.close()
			return
		}
	}
}

func (r *Register) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for key, s := range r.stays {
		r.leave(key, s)
	}
}

// newcomers gives those that have come since it was last called.
func (r *Register) newcomers() [][32]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := r.fresh
	r.fresh = nil
	return fresh
}

// sweep ends the visits of those that have left, and gives those that have not.
func (r *Register) sweep(now time.Time) (here [][32]byte) {
	if r.cfg.Present == nil {
		return nil
	}
	present := r.cfg.Present()
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, s := range r.stays {
		switch {
		case now.Sub(latest(s.since, present[key].Heard)) <= away:
			here = append(here, key)
		case s.visit == nil || s.visit.Usage().Flows == 0:
			r.leave(key, s)
		}
	}
	return here
}

// see notes in the store that guests are here.
func (r *Register) see(ctx context.Context, here [][32]byte) {
	for _, key := range here {
		if err := r.cfg.Users.Seen(ctx, key[:], time.Now()); err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("note a guest as seen", "error", err)
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Guest is one that is here.
type Guest struct {
	Device users.Device
	Remote netip.AddrPort
	Since  time.Time
	Usage  server.Usage
}

// Here gives the guests that are here, the one that has come first before others.
func (r *Register) Here() []Guest {
	var present map[[32]byte]Presence
	if r.cfg.Present != nil {
		present = r.cfg.Present()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Guest
	for key, s := range r.stays {
		if s.visit == nil || s.stale() {
			continue
		}
		g := Guest{Device: r.known[key], Remote: s.remote, Since: s.since, Usage: s.visit.Usage()}
		if p := present[key]; p.Remote.IsValid() {
			g.Remote = p.Remote
		}
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b Guest) int {
		return cmp.Or(a.Since.Compare(b.Since), a.Device.Address.Compare(b.Device.Address))
	})
	return all
}
