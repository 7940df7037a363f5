package server

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// Visitor is somebody who makes requests without a session: by a device that runs
// no adit, or at a door of the server's own.
type Visitor struct {
	Device ed25519.PublicKey // nil: no device; User has proved who he is in another way
	User   string            // not looked at if there is a device, which has one

	// Came says what he comes in by, and how that is protected: Door, Method, Protection
	// and Cipher, and Device if there is none above. nil: nobody knows. It is asked for each flow.
	Came func() policy.Who

	// Keep has everything that he and the server say to each other, on connections, go by what
	// protects the path now, or not at all. It is safe for concurrent use. nil: that cannot be had.
	Keep func() error

	Session string // in which he has logged in, for the records
}

// Visit is a visitor's stay. It is a [socks.Relay] that carries requests out in
// his name, and ends as a session would: within 2 s after he may not come any
// more. Its methods are safe for concurrent use.
type Visit struct {
	*caller
	visitor Visitor
	device  string
	groups  atomic.Pointer[[]string] // as the store had them last
	pings   pings
	done    chan struct{}
}

// Visit lets a visitor in, who must go by [Visit.Close]. The error wraps a
// [tunnel.Refusal] if he may not come.
func (s *Server) Visit(ctx context.Context, who Visitor) (*Visit, error) {
	device, user, err := s.look(ctx, who)
	if err != nil {
		return nil, fmt.Errorf("let a visitor in: %w", err)
	}
	log := s.cfg.Log.With("user", user.Name)
	if who.Device != nil {
		log = log.With("device", device.Name)
	}
	who.User = user.Name
	v := &Visit{visitor: who, device: device.Name, done: make(chan struct{})}
	v.caller = newCaller(s, user.Name, v.who, log)
	v.caller.more = func(o *audit.Origin) { o.Session = who.Session }
	v.caller.way = visitWay{who.Keep}
	v.groups.Store(&user.Groups)
	if !s.receive(v) {
		return nil, fmt.Errorf("let a visitor in: %w", tunnel.RefusedBusy)
	}
	// What has changed since the first look no review has seen. From now on one
	// does.
	if refusal := s.judgeVisit(ctx, v); refusal != 0 {
		v.Close()
		return nil, fmt.Errorf("let a visitor in: %w", refusal)
	}
	return v, nil
}

// who is how rules see the visitor.
func (v *Visit) who() policy.Who {
	var w policy.Who
	if v.visitor.Came != nil {
		w = v.visitor.Came()
	}
	w.User, w.Groups, w.Device = v.user, *v.groups.Load(), cmp.Or(v.device, w.Device)
	return w
}

// MayResolve gives a request by which the visitor resolves names. It asks rules as those
// for connections do.
func (v *Visit) MayResolve(r socks.Request) socks.Request {
	wish := v.petition(r)
	wish.command = "resolve"
	r.User, r.Permit = v.user, func(name string, at netip.AddrPort) error {
		err := wish.permit(name, at)
		return cmp.Or(err, wish.noteResolve(name, at, err))
	}
	return r
}

// Ping has echo ping a target for the visitor, by a request that asks rules as those for
// connections do. What echo itself does not allow is on record like what they deny.
func (v *Visit) Ping(r socks.Request, target netip.Addr, echo func(socks.Request) error) error {
	wish := v.petition(r)
	wish.command = "ping"
	judged := false
	r.User, r.Permit = v.user, func(name string, at netip.AddrPort) error {
		judged = true
		err := wish.permit(name, at)
		return cmp.Or(err, wish.notePing(target, err, &v.pings))
	}
	err := echo(r)
	if !judged && socks.CodeOf(err) == socks.NotAllowed {
		_ = wish.notePing(target, err, &v.pings) // it was not done
	}
	return err
}

// Done is closed when the visit is over.
func (v *Visit) Done() <-chan struct{} { return v.done }

// User is the visitor's name.
func (v *Visit) User() string { return v.user }

// Usage tells what the visitor's flows have used so far.
func (v *Visit) Usage() Usage { return v.usage() }

// Close ends the visit, and breaks the flows that are left of it.
func (v *Visit) Close() { v.over(errLeft) }

var errLeft = errors.New("whoever it was for has gone")

// over ends the visit for a reason.
func (v *Visit) over(reason error) {
	v.server.mu.Lock()
	_, here := v.server.visits[v]
	delete(v.server.visits, v)
	v.server.mu.Unlock()
	if here {
		close(v.done)
		v.end(reason)
	}
}

// receive books a visit, unless the server is going down.
func (s *Server) receive(v *Visit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.visits[v] = struct{}{}
	return true
}

// look finds who a visitor is, and whether he may come.
func (s *Server) look(ctx context.Context, who Visitor) (device users.Device, user users.User, err error) {
	if who.Device != nil {
		device, user, err = s.cfg.Users.Lookup(ctx, who.Device)
	} else {
		user, err = s.cfg.Users.User(ctx, who.User)
	}
	if err == nil {
		if refusal := standing(device, user); refusal != 0 {
			err = refusal
		}
	}
	return device, user, err
}

// judgeVisit tells why a visit may not go on; 0 if it may. A store that gives no
// answer gives no permission.
func (s *Server) judgeVisit(ctx context.Context, v *Visit) tunnel.Refusal {
	_, user, err := s.look(ctx, v.visitor)
	refusal, known := errors.AsType[tunnel.Refusal](err)
	switch {
	case err == nil && user.Name == v.user:
		if before := v.groups.Swap(&user.Groups); !slices.Equal(*before, user.Groups) {
			v.judgeFlows()
		}
		return 0
	case known:
		return refusal
	case err == nil, errors.Is(err, users.ErrDeviceUnknown), errors.Is(err, users.ErrUserUnknown):
		return tunnel.RefusedDeviceRevoked
	}
	if ctx.Err() == nil {
		v.log.Error("look up a visitor", "error", err)
	}
	return tunnel.RefusedBusy
}

// reviewVisits ends the visits that would not begin any more.
func (s *Server) reviewVisits(ctx context.Context) {
	for _, v := range s.allVisits() {
		refusal := s.judgeVisit(ctx, v)
		if ctx.Err() != nil {
			return // the server is stopping, and what judge says is of no worth
		}
		if refusal != 0 {
			v.log.Warn("visit is being ended", "reason", refusal)
			v.over(refusal)
		}
	}
}

func (s *Server) allVisits() []*Visit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.visits))
}
