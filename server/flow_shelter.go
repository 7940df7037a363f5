package server

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// A rule may require IPsec on the path from the app to here. A request that comes while
// there is none is refused. A flow that there is already stands still: its bytes are held
// where those wait that have no bandwidth, so that both ends are slowed down, and its
// datagrams are dropped. It goes on with the protection, and is reset if that stays away.
//
// Whether there is protection is looked at, which is always a little late. So the path is
// held to it before the first such flow passes anything, see [tunnel.Arrival].Keep and
// [Visitor].Keep. And what is on its way in a session, which may change its carrier, does not
// go by one that is not protected, see lane.withholds.

// unprotected is the error for what a rule allows only while IPsec protects the path.
type unprotected struct {
	rule *policy.Rule
	why  error // nil: it does not
}

func (e *unprotected) Error() string {
	text := fmt.Sprintf("%v by rule %q: it requires IPsec", errForbidden, e.rule.Name)
	if e.why == nil {
		return text + ", which does not protect the path"
	}
	return text + ": " + e.why.Error()
}

func (e *unprotected) Unwrap() []error { return []error{errForbidden, e.why} }

var (
	// errStoodStill ends flows that have waited for protection.
	errStoodStill = errors.New("IPsec has not protected its path for too long")

	errNotKept = errors.New("the path cannot be held to what protects it")
)

// way is what a caller's requests come by.
type way interface {
	// keep has everything go by what protects the way now, or not at all. datagrams tells
	// that some are going to. The error says that this cannot be had.
	keep(datagrams bool) error

	shelter(flows int64) // counts flows that rely on that
	going(pieces int64)  // counts pieces of them that are being handed over to go to the app
}

// keep is that of the way that the caller's requests come by.
func (c *caller) keep(datagrams bool) error {
	if c.way == nil {
		return errNotKept
	}
	return c.way.keep(datagrams)
}

// shelteredAs has the flow rely on protection if rules want it, or may come to.
func (f *flow) shelteredAs(r ruling) error {
	switch {
	case r.settled && f.talks == nil:
		return f.shelterBy(r.secure)
	case r.wary:
		_ = f.caller.keep(f.talks != nil) // who relies on it is told
	}
	return nil
}

// shelterBy has the flow rely on protection as a rule wants it; nil is none that wants any.
func (f *flow) shelterBy(rule *policy.Rule) error {
	// First it counts, and then the way is held: a carrier that comes meanwhile sees one or is
	// the other.
	f.mu.Lock()
	f.setShelter(rule != nil && !f.limits.over && f.caller.way != nil)
	f.mu.Unlock()
	if rule == nil {
		return nil
	}
	if err := f.caller.keep(f.talks != nil); err != nil {
		return &socks.Error{Code: socks.NotAllowed, Err: &unprotected{rule, err}}
	}
	return nil
}

// setShelter counts the flow among those that rely on protection. f.mu is held.
func (f *flow) setShelter(on bool) {
	if on == f.sheltered {
		return
	}
	f.sheltered = on
	f.part.watch(nil)
	if on {
		f.part.watch(f.caller.way)
		f.caller.way.shelter(1)
	} else {
		f.caller.way.shelter(-1)
	}
}

// shelterTalk is shelterBy for a rule that allows a destination of an association, or a name that is
// resolved: it wants something of the whole, until there are other rules.
func (f *flow) shelterTalk(rule *policy.Rule) error {
	if rule == nil {
		return nil
	}
	f.judging.Lock() // who judges the flow knows of it, or comes later
	defer f.judging.Unlock()
	if err := f.shelterBy(rule); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.talkRule, f.talkRules = rule, f.caller.server.policy.Load()
	return nil
}

// judgeTalks tells whether the flow lacks what one of its destinations wants, see shelterTalk.
func (f *flow) judgeTalks() error {
	f.mu.Lock()
	rule, rules := f.talkRule, f.talkRules
	f.mu.Unlock()
	if rule == nil {
		return nil
	}
	as := f.caller.seen(f.wish.from)
	switch {
	case as == nil || f.caller.server.policy.Load() != rules:
		f.mu.Lock()
		f.talkRule, f.talkRules = nil, nil
		f.mu.Unlock()
		return nil // its destinations are judged anew
	case !as.Protected():
		return &unprotected{rule: rule}
	}
	return f.shelterBy(rule)
}

// rejudge has rules decide once more about a flow that there is, and tells why it must end.
func (f *flow) rejudge() error {
	f.judging.Lock()
	defer f.judging.Unlock()
	_, err := f.judgeNow()
	if err == nil {
		err = f.judgeTalks()
	}
	if lack, ok := errors.AsType[*unprotected](err); ok {
		f.standStill(lack)
		return nil
	}
	if err == nil {
		f.goOn()
	}
	return err
}

// standstill is when a flow had to stand still.
type standstill struct {
	since  time.Time     // zero: it does not
	before time.Duration // for how long it did in all, before that
	late   *time.Timer   // ends it
}

// total is for how long it has stood still.
func (s *standstill) total() time.Duration {
	if s.since.IsZero() {
		return s.before
	}
	return s.before + time.Since(s.since)
}

// stop ends it.
func (s *standstill) stop() {
	s.before, s.since = s.total(), time.Time{}
	if s.late != nil {
		s.late.Stop()
		s.late = nil
	}
}

// standStill has nothing of the flow pass until goOn, or until it has waited for too long.
func (f *flow) standStill(lack *unprotected) {
	f.part.hold()
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.still
	if f.limits.over {
		return
	}
	if s.since.IsZero() {
		s.since = time.Now()
		f.caller.log.Info("flow stands still", "rule", lack.rule.Name, "reason", lack)
	}
	left := time.Until(s.since.Add(lack.rule.Limit.Patience))
	if s.late != nil {
		s.late.Stop()
	}
	s.late = time.AfterFunc(left, f.outwait)
}

// outwait ends the flow if it still stands still.
func (f *flow) outwait() {
	f.mu.Lock()
	still := !f.still.since.IsZero()
	f.mu.Unlock()
	if still {
		f.cut(errStoodStill)
	}
}

// goOn ends a standstill.
func (f *flow) goOn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.still.since.IsZero() {
		f.caller.log.Info("flow goes on", "after", time.Since(f.still.since).Round(time.Millisecond))
		f.still.stop()
	}
	f.part.release()
}

// stood says in words for how long the flow has stood still; "" if it has not. f.mu is held.
func (f *flow) stood() string {
	d := f.still.total()
	if d == 0 {
		return ""
	}
	return "stood still for " + max(d.Round(time.Millisecond), time.Millisecond).String() + " without IPsec"
}

// byIPsec tells whether IPsec protects the path below a carrier.
func byIPsec(a *tunnel.Arrival) bool {
	return slices.ContainsFunc(pathOf(a).Protection, func(word string) bool { return word == "ipsec" || strings.HasPrefix(word, "ipsec:") })
}

func keepArrival(a *tunnel.Arrival) error {
	if a.Keep == nil {
		return errNotKept
	}
	return a.Keep()
}

func (l *lane) keep(bool) error { return keepArrival(l.last()) }

func (l *lane) going(pieces int64) {
	if pieces < 0 {
		l.owe()
	}
	l.underway.Add(pieces)
}

// owe notes that what has been written up to now is for protected carriers only.
func (l *lane) owe() {
	owed := l.tun.Written()
	for before := l.owed.Load(); before < owed && !l.owed.CompareAndSwap(before, owed); before = l.owed.Load() {
	}
}

// owes tells whether a carrier would take something that was to go by protected paths only.
func (l *lane) owes(c *coming) bool { return l.underway.Load() > 0 || c.Received < l.owed.Load() }

// withholds tells whether a carrier is to have nothing of what the peer has not got yet.
func (l *lane) withholds(c *coming) bool { return l.owes(c) && !byIPsec(c.arrival) }

// attach makes a conn the lane's carrier.
func (l *lane) attach(c *coming, conn net.Conn) (*tunnel.Carrier, error) {
	l.attaching.Lock() // so that the last arrival is the carrier's
	defer l.attaching.Unlock()
	if _, err := l.tun.Judge(c.Epoch, c.Received); err != nil {
		return nil, err // before flows stand still for it
	}
	if err := l.shield(c); err != nil {
		return nil, err
	}
	carrier, err := l.tun.Attach(conn, c.Epoch, c.Received)
	if err != nil {
		return nil, err // the session is over
	}
	l.comes(c, carrier)
	return carrier, nil
}

// shield prepares the lane for a carrier: the carrier is held to what protects it, or takes nothing
// away that relies on that. The error says that it would. Flows are seen as coming by it from now on,
// and are to be safe by the one before, too, which may not be lost yet.
func (l *lane) shield(c *coming) error {
	before, both := l.last(), *c.arrival
	both.Keep = func() error {
		if err := keepArrival(before); err != nil {
			return err
		}
		return keepArrival(c.arrival)
	}
	l.arrives(&both)
	if l.sheltered.Load() == 0 && !l.owes(c) {
		return nil
	}
	err := keepArrival(c.arrival)
	if err == nil {
		return nil
	}
	l.session.judgeFlows() // before it takes anything: they stand still
	if l.owes(c) {
		l.arrives(before)
		l.session.judgeFlows()
		return fmt.Errorf("the session owes what only IPsec may carry: %w", err)
	}
	return nil
}

// arrives makes an arrival the last. Nobody changes it any more.
func (l *lane) arrives(a *tunnel.Arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrival = a
}

// What apps ask for that have logged in over a session may come by each of its lanes.

func (s *session) keep(datagrams bool) error {
	lanes, _ := s.open()
	for _, l := range lanes {
		if err := l.keep(datagrams); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) shelter(flows int64) { s.sheltered.Add(flows) }

func (s *session) going(pieces int64) {
	lanes, _ := s.open()
	for _, l := range lanes {
		if pieces < 0 {
			l.owe()
		}
	}
	s.underway.Add(pieces)
}

// visitWay is a visitor's.
type visitWay struct{ held func() error }

func (w visitWay) keep(datagrams bool) error {
	if datagrams || w.held == nil {
		return errNotKept
	}
	return w.held()
}

func (visitWay) shelter(int64) {}
func (visitWay) going(int64)   {}
