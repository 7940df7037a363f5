package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/metrics"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/shape"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/relay"
)

// Bandwidth says what there is for the flows of all, and what each user gets of it. The zero
// Bandwidth limits nothing.
type Bandwidth struct {
	Total shape.Allotment
	User  shape.Allotment
}

// SetBandwidth changes Config.Bandwidth, for the flows that there are too.
func (s *Server) SetBandwidth(b Bandwidth) { s.bandwidth.set(b) }

// reviewBandwidth takes over what single users have. If the store does not say it, it
// stays as it was.
func (s *Server) reviewBandwidth(ctx context.Context) {
	own, err := s.cfg.Users.Rates(ctx)
	if err == nil {
		s.bandwidth.setOwn(own)
	} else if ctx.Err() == nil {
		s.cfg.Log.Error("look up bandwidth", "error", err)
	}
}

// bandwidth keeps the shares of those who have flows.
type bandwidth struct {
	total *shape.Share

	delay   *metrics.Histogram // of what has waited
	waiting atomic.Int64       // directions of flows that wait
	lost    atomic.Int64       // datagrams that had no room to wait, or have waited for too long

	mu     sync.Mutex
	user   shape.Allotment
	own    map[string]users.Rates // of those users who have any
	groups map[string]*groupPart
}

// groupPart is what flows have that a rule has put together. Those of no rule are in one
// that has no name and no limits.
type groupPart struct {
	*shape.Share
	name  string
	gets  atomic.Pointer[shape.Allotment]
	users map[string]*userPart
}

// is tells whether the group is the one of that name, and gets that.
func (g *groupPart) is(name string, a shape.Allotment) bool {
	return g.name == name && (name == "" || *g.gets.Load() == a)
}

// set changes what the group gets.
func (g *groupPart) set(a shape.Allotment) {
	if *g.gets.Load() != a {
		g.gets.Store(&a)
		g.Set(a)
	}
}

// userPart is a user's within a group.
type userPart struct {
	*shape.Share
	group *groupPart
	name  string
	gets  shape.Allotment
	flows int
	stays bool // until a timer has it judged again
}

func newBandwidth(b Bandwidth) *bandwidth {
	return &bandwidth{
		total:  shape.New(b.Total),
		user:   b.User,
		groups: make(map[string]*groupPart),
		delay:  metrics.NewHistogram(metrics.Spread(100*time.Microsecond, 5*time.Second)...),
	}
}

func (b *bandwidth) set(to Bandwidth) {
	b.total.Set(to.Total)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.user = to.User
	b.allot()
}

// setOwn says what single users have.
func (b *bandwidth) setOwn(own map[string]users.Rates) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own = own
	b.allot()
}

// allot gives those users who have flows what they get now. The caller holds mu.
func (b *bandwidth) allot() {
	for _, g := range b.groups {
		for _, u := range g.users {
			if a := b.of(u.name); a != u.gets {
				u.gets = a
				u.Set(a)
			}
		}
	}
}

// of is what a user gets. The caller holds mu.
func (b *bandwidth) of(user string) shape.Allotment {
	a, own := b.user, b.own[user]
	for rate, is := range map[*shape.Rate]*int64{
		&a[shape.Up].Guaranteed: own.RateUp, &a[shape.Down].Guaranteed: own.RateDown,
		&a[shape.Up].Ceiling: own.CeilingUp, &a[shape.Down].Ceiling: own.CeilingDown,
	} {
		if is != nil {
			*rate = shape.Rate(*is)
		}
	}
	if own.Weight != nil {
		a[shape.Up].Weight, a[shape.Down].Weight = int(*own.Weight), int(*own.Weight)
	}
	return a
}

// take gives a user's share in a group, for one more flow. The group gets what is said
// last.
func (b *bandwidth) take(group string, a shape.Allotment, user string) *userPart {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.groups[group]
	if g == nil {
		g = &groupPart{Share: b.total.Group(a), name: group, users: make(map[string]*userPart)}
		g.gets.Store(&a)
		b.groups[group] = g
	} else if group != "" {
		g.set(a)
	}
	u := g.users[user]
	if u == nil {
		gets := b.of(user)
		u = &userPart{Share: g.User(gets), group: g, name: user, gets: gets}
		g.users[user] = u
	}
	u.flows++
	return u
}

// drop gives it back.
func (b *bandwidth) drop(u *userPart) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.flows--; u.flows == 0 && !u.stays {
		b.forget(u)
	}
}

// forget gives a share back that has no flows, and its group's with the last. They stay until
// they owe nothing: whoever comes back at once gets no more than if he had not left. The
// caller holds mu.
func (b *bandwidth) forget(u *userPart) {
	owes := u.Owes()
	if len(u.group.users) == 1 {
		owes = max(owes, u.group.Owes())
	}
	if owes > 0 {
		u.stays = true
		time.AfterFunc(owes, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if u.stays = false; u.flows == 0 {
				b.forget(u)
			}
		})
		return
	}
	u.Close()
	delete(u.group.users, u.name)
	if len(u.group.users) == 0 {
		u.group.Close()
		delete(b.groups, u.group.name)
	}
}

// part is a flow's part of the bandwidth. It is the [relay.Pacer] of the flow's conn.
type part struct {
	bandwidth *bandwidth
	flow      *shape.Flow

	gate    atomic.Pointer[chan struct{}] // closed when the flow goes on; nil: it does not stand still
	watched atomic.Bool                   // way is not nil

	mu       sync.Mutex
	share    *userPart // nil: given back
	way      way       // that is told what is on its way to the app; nil: nobody wants to know
	underway bool      // something is
}

var _ relay.Follower = (*part)(nil)

// part gives a part to a user's flow, which must close it.
func (b *bandwidth) part(user string) *part {
	u := b.take("", shape.Allotment{}, user)
	return &part{bandwidth: b, share: u, flow: u.Flow(shape.Allotment{})}
}

// by has the flow share with all that the rule decides what this gives them. nil is no
// rule. It may be called at any time.
func (p *part) by(rule *policy.Rule) { p.move(given(rule)) }

// alsoBy is by for one of several rules that decide about an association: the first that
// limits it does.
func (p *part) alsoBy(rule *policy.Rule) {
	group, a := given(rule)
	p.mu.Lock()
	other := p.share != nil && p.share.group.name != "" && (rule == nil || p.share.group.name != rule.Name)
	p.mu.Unlock()
	if !other {
		p.move(group, a)
	}
}

// given names the group of a rule's flows, and says what it gets. A rule that says nothing of
// that has none.
func given(rule *policy.Rule) (group string, a shape.Allotment) {
	if rule == nil {
		return "", a
	}
	l := rule.Limit
	a[shape.Up] = shape.Limits{Guaranteed: shape.Rate(l.RateUp), Ceiling: shape.Rate(l.CeilingUp)}
	a[shape.Down] = shape.Limits{Guaranteed: shape.Rate(l.RateDown), Ceiling: shape.Rate(l.CeilingDown)}
	if a == (shape.Allotment{}) {
		return "", a
	}
	return rule.Name, a
}

// move puts the flow into a group, which gets a of the total for all its flows.
func (p *part) move(group string, a shape.Allotment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.share == nil || p.share.group.is(group, a) {
		return
	}
	before := p.share
	p.share = p.bandwidth.take(group, a, before.name)
	p.flow.Move(p.share.Share, shape.Allotment{})
	p.bandwidth.drop(before)
}

// close gives the part back, and ends all waits for it.
func (p *part) close() {
	p.flow.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.share != nil {
		p.bandwidth.drop(p.share)
		p.share = nil
	}
}

// PaceRead waits for bytes that come from a target.
func (p *part) PaceRead(n int) (int, error) {
	n, err := p.pace(shape.Down, n)
	if err == nil && (p.holds() || p.watched.Load()) {
		err = p.depart()
	}
	return n, err
}

// PaceWrite waits for bytes that go to one.
func (p *part) PaceWrite(n int) (int, error) {
	n, err := p.pace(shape.Up, n)
	if err == nil && p.holds() {
		err = p.wait()
	}
	return n, err
}

// Open tells whether what goes to a target has nothing to wait for.
func (p *part) Open() bool { return !p.flow.Limited(shape.Up) && !p.holds() }

// pace takes the time of what may have to wait, and only of that.
func (p *part) pace(d shape.Direction, n int) (int, error) {
	if !p.flow.Limited(d) {
		return p.flow.Take(d, n)
	}
	p.bandwidth.waiting.Add(1)
	defer p.bandwidth.waiting.Add(-1)
	began := time.Now()
	n, err := p.flow.Take(d, n)
	p.bandwidth.delay.Observe(time.Since(began))
	return n, err
}
