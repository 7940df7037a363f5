package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/sniff"
	"github.com/adit-net/adit/tunnel/socks"
)

// SetPolicy has the rules of p decide from now on; nil allows all that the exit does.
// Flows that there are already are judged again, and those are broken that may not be
// any more. What a decider has said is asked anew.
func (s *Server) SetPolicy(p *policy.Policy) {
	s.policy.Store(p)
	what := "no policy is in force"
	if p != nil {
		what = fmt.Sprintf("a policy with %d rules is in force", len(p.Rules()))
	}
	s.note(audit.Policy, audit.Origin{}, netip.AddrPort{}, what, nil)
	if d := s.decider(); d != nil {
		d.Forget()
	}
	s.judgeFlows()
}

// judgeFlows breaks the flows that may not be any more.
func (s *Server) judgeFlows() {
	for _, c := range s.callers() {
		c.judgeFlows()
	}
}

// callers gives those of all sessions and visits.
func (s *Server) callers() (all []*caller) {
	for _, sess := range s.all() {
		all = append(all, sess.callers()...)
	}
	for _, v := range s.allVisits() {
		all = append(all, v.caller)
	}
	return all
}

func (s *session) judgeFlows() {
	for _, c := range s.callers() {
		c.judgeFlows()
	}
}

func (s *session) callers() (all []*caller) {
	lanes, _ := s.open()
	for _, l := range lanes {
		all = append(all, l.caller)
	}
	for _, v := range s.logins.visits() {
		all = append(all, v.caller)
	}
	return all
}

func (c *caller) judgeFlows() {
	for _, f := range c.all() {
		f.minds.Store(true)
		f.forget()
		if reason := f.rejudge(); reason != nil {
			f.cut(reason)
		} else {
			f.askSoon()
		}
	}
}

// watchClock judges flows again whenever rules may say something else because time has
// gone by.
func (s *Server) watchClock(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now().Truncate(time.Minute)
	for {
		select {
		case <-tick.C: // which a clock that was set does not move
		case <-ctx.Done():
			return
		}
		now := time.Now().Truncate(time.Minute)
		if p := s.policy.Load(); p != nil && p.Timed() && !now.Equal(last) {
			s.judgeFlows()
		}
		s.chargeFlows()
		last = now
	}
}

// sight is how a policy sees a caller.
type sight struct {
	policy *policy.Policy
	who    policy.Who
	caller *policy.Caller
}

// seen gives how the rules of this moment see the caller; nil if there are none.
func (c *caller) seen(from netip.AddrPort) *policy.Caller {
	p := c.server.policy.Load()
	if p == nil {
		return nil
	}
	who := c.came(from)
	if s := c.sight.Load(); s != nil && s.policy == p && same(s.who, who) {
		return s.caller
	}
	s := &sight{p, who, p.For(who)}
	c.sight.Store(s)
	return s.caller
}

// came is who the caller is, and how a request of his comes.
func (c *caller) came(from netip.AddrPort) policy.Who {
	who := c.who()
	if !who.From.IsValid() {
		who.From = from.Addr()
	}
	return who
}

func same(a, b policy.Who) bool {
	return a.User == b.User && a.Device == b.Device && a.From == b.From && a.Door == b.Door && a.Method == b.Method && a.Cipher == b.Cipher &&
		slices.Equal(a.Groups, b.Groups) && slices.Equal(a.Protection, b.Protection)
}

// petition is somebody's wish to do something, which rules judge.
type petition struct {
	caller  *caller
	from    netip.AddrPort
	dialect string
	command string
}

func (c *caller) petition(r socks.Request) petition {
	p := petition{caller: c, from: r.Source, dialect: dialectWord(r.Dialect)}
	switch r.Command {
	case socks.Connect:
		p.command = "connect"
		if isNameService(r.Dst) {
			p.command = "resolve"
		}
	case socks.Bind:
		p.command = "bind"
	case socks.Associate:
		p.command = "associate"
	}
	return p
}

// dialectWord is what rules call a dialect.
func dialectWord(d socks.Dialect) string {
	switch d {
	case socks.SOCKS4:
		return "socks4"
	case socks.SOCKS4a:
		return "socks4a"
	case socks.SOCKS5:
		return "socks5"
	case socks.SOCKS6:
		return "socks6"
	case socks.HTTPConnect:
		return "http-connect"
	case socks.HTTPForward:
		return "http"
	case socks.WireGuard:
		return "wireguard"
	}
	return "direct"
}

// permit tells why a destination may not be reached; nil if it may, as far as is
// known. It is what [socks.Request.Permit] is for what is no flow, and comes in packets.
func (p petition) permit(name string, at netip.AddrPort) error {
	d := destination{name, at}
	r, err := p.judge(d, spoken{})
	if err == nil && !r.open {
		err = p.ask(d, spoken{}, true).err
	}
	if err == nil && r.settled && r.secure != nil {
		if err := p.caller.keep(true); err != nil {
			return &socks.Error{Code: socks.NotAllowed, Err: &unprotected{r.secure, err}}
		}
	}
	return err
}

var (
	// errForbidden is in all that rules deny.
	errForbidden = errors.New("it is forbidden")

	errNoRule = fmt.Errorf("%w: no rule allows it", errForbidden)

	// What a peer says that nobody has sent to is not listened to.
	errDatagrams = fmt.Errorf("%w: it depends on what the datagrams are, which is not known", errForbidden)
)

// ruling is what rules say of something that they do not forbid.
type ruling struct {
	rule *policy.Rule // the first that may decide; nil: there are no rules
	open bool         // it depends on what is spoken

	settled bool // it allows, and nothing that becomes known changes it

	secure *policy.Rule // it allows only while IPsec protects the path; nil: it does not mind
	wary   bool         // it is open, and a rule may come to require that
}

// judge gives the first rule that may decide, and why the destination may not be
// reached. Without a name and an address it is not known yet what that is.
func (p petition) judge(d destination, s spoken) (r ruling, err error) {
	as := p.caller.seen(p.from)
	if as == nil {
		return r, nil
	}
	q, err := p.put(d, s)
	if err != nil {
		return r, err
	}
	for _, q.Addr = range Judged(q.Addr) {
		decision := as.Decide(q)
		r.rule, r.settled = decision.Rule, decision.Outcome == policy.Allow
		if r.settled && decision.Rule.Limit.RequireIPsec {
			r.secure = decision.Rule
		}
		switch {
		case decision.Outcome == policy.Deny:
			return r, &socks.Error{Code: socks.NotAllowed, Err: denial(decision)}
		case decision.Outcome == policy.NeedsProtocol && p.command == "associate" && !q.Anywhere:
			return r, &socks.Error{Code: socks.NotAllowed, Err: errDatagrams}
		case decision.Outcome == policy.NeedsProtocol:
			r.open = true
		}
	}
	r.settled = r.settled && !r.open
	r.wary = r.open && as.Wary()
	return r, nil
}

// put puts the wish as a request to rules. Its address is as it is spelt.
func (p petition) put(d destination, s spoken) (q policy.Request, err error) {
	if d, err = d.canonical(); err != nil {
		return q, &socks.Error{Code: socks.NotAllowed, Err: err}
	}
	q = policy.Request{
		Dialect: p.dialect, Command: p.command, Name: d.name, Addr: d.at.Addr(), Port: d.at.Port(), Anywhere: !d.known(), Time: time.Now(),
		Protocol: s.protocol, Carries: s.carries, Signs: s.signs(d),
	}
	switch p.command {
	case "bind":
		q.Port = 0 // the peer's own, which says nothing
	case "resolve":
		q.Protocol = string(sniff.DNS)
	case "ping":
		q.Protocol = string(sniff.Unknown)
	}
	return q, nil
}

// denial says in words why something is denied.
func denial(d policy.Decision) error {
	switch {
	case d.Rule == nil:
		return errNoRule
	case d.Unheld:
		return &unprotected{d.Rule, errNotKept}
	case d.Unprotected:
		return &unprotected{rule: d.Rule}
	}
	return fmt.Errorf("%w by rule %q", errForbidden, d.Rule.Name)
}

// Judged gives the addresses that rules have to allow for one to be reached: itself,
// unless it is one of NAT64, which is no more than a spelling of the IPv4 address in it,
// and those to which a tunnel may take what is sent there.
func Judged(a netip.Addr) []netip.Addr {
	if !a.IsValid() {
		return []netip.Addr{{}}
	}
	all := forms(a.WithZone(""))
	if nat64.Contains(all[0]) {
		return all[1:]
	}
	return all
}

// destinationOf is what a request is for, as far as it says.
func destinationOf(r socks.Request) destination {
	d := destination{name: r.Dst.Name}
	if r.Command == socks.Associate || isNameService(r.Dst) {
		return destination{}
	}
	if a := r.Dst.IP.Unmap(); a.IsValid() && !(r.Command == socks.Bind && a.IsUnspecified()) {
		d.at = netip.AddrPortFrom(a, r.Dst.Port)
	} else if d.name != "" {
		d.at = netip.AddrPortFrom(netip.Addr{}, r.Dst.Port)
	}
	return d
}

// known tells whether it is known where anything is to go.
func (d destination) known() bool { return d.name != "" || d.at.Addr().IsValid() }

// canonical spells the name in the one way in which rules know it. What is no name but
// an address is that.
func (d destination) canonical() (destination, error) {
	if d.name == "" {
		return d, nil
	}
	a, err := literal(d.name)
	if err != nil {
		return d, err
	}
	if a.IsValid() {
		d.name = ""
		if !d.at.Addr().IsValid() {
			d.at = netip.AddrPortFrom(a.Unmap(), d.at.Port())
		}
		return d, nil
	}
	d.name, err = policy.CanonicalName(d.name)
	return d, err
}
