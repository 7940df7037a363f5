package server

import (
	"sync"

	"github.com/adit-net/adit/server/shape"
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

// bandwidth keeps the shares of those who have flows.
type bandwidth struct {
	total *shape.Share

	mu     sync.Mutex
	user   shape.Allotment
	groups map[string]*groupPart
}

// groupPart is what flows have that a rule has put together. Those of no rule are in one
// that has no name and no limits.
type groupPart struct {
	*shape.Share
	name  string
	users map[string]*userPart
}

// userPart is a user's within a group.
type userPart struct {
	*shape.Share
	group *groupPart
	name  string
	flows int
}

func newBandwidth(b Bandwidth) *bandwidth {
	return &bandwidth{total: shape.New(b.Total), user: b.User, groups: make(map[string]*groupPart)}
}

func (b *bandwidth) set(to Bandwidth) {
	b.total.Set(to.Total)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.user = to.User
	for _, g := range b.groups {
		for _, u := range g.users {
			u.Set(to.User)
		}
	}
}

// take gives a user's share in a group, for one more flow. The group gets what is said
// last.
func (b *bandwidth) take(group string, a shape.Allotment, user string) *userPart {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.groups[group]
	if g == nil {
		g = &groupPart{Share: b.total.Group(a), name: group, users: make(map[string]*userPart)}
		b.groups[group] = g
	} else if group != "" {
		g.Set(a)
	}
	u := g.users[user]
	if u == nil {
		u = &userPart{Share: g.User(b.user), group: g, name: user}
		g.users[user] = u
	}
	u.flows++
	return u
}

// drop gives it back.
func (b *bandwidth) drop(u *userPart) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.flows--; u.flows > 0 {
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

	mu    sync.Mutex
	share *userPart // nil: given back
}

var _ relay.Pacer = (*part)(nil)

// part gives a part to a user's flow, which must close it.
func (b *bandwidth) part(user string) *part {
	u := b.take("", shape.Allotment{}, user)
	return &part{bandwidth: b, share: u, flow: u.Flow(shape.Allotment{})}
}

// move puts the flow into a group, which gets a of the total for all its flows. It
// may be called at any time.
func (p *part) move(group string, a shape.Allotment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.share == nil {
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
func (p *part) PaceRead(n int) (int, error) { return p.flow.Take(shape.Down, n) }

// PaceWrite waits for bytes that go to one.
func (p *part) PaceWrite(n int) (int, error) { return p.flow.Take(shape.Up, n) }
