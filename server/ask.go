package server

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel/socks"
)

// What rules allow a decider is asked about, if there is one: each address before
// anything goes there or comes from there, and each name that is resolved for an app. Its no is as final as a
// rule's. What it says counts for a while, and what is open is asked about again after
// that.

const (
	// askAgainEvery is how often it is looked for flows that have to be asked about again.
	askAgainEvery = time.Second

	// askersAgain is how many of them are asked about at once.
	askersAgain = 32

	// maxAgreed is how many destinations of an association are remembered that the decider
	// has agreed to.
	maxAgreed = maxTalks

	// maxAsked is how many destinations of an association are asked about at once. Anybody may
	// send it datagrams.
	maxAsked = 8
)

// decider gives whom to ask; nil if there is nobody.
func (s *Server) decider() *decide.Decider {
	if d := s.cfg.Decider; d != nil && d.Asks() {
		return d
	}
	return nil
}

// opinion is what a decider says of a destination. The zero opinion is that of a server
// that has none: it does not mind.
type opinion struct {
	by     string         // what the decider is called
	answer decide.Answer  // the one that counts
	asked  *decide.Asking // what has to be waited for; nil: it is known
	open   bool           // it depends on what is spoken
	err    error          // why it may not be
}

// ask asks for an opinion, and waits for it or not.
func (p petition) ask(d destination, s spoken, wait bool) (o opinion) {
	decider := p.caller.server.decider()
	if decider == nil {
		return o
	}
	q := decide.Question{Who: p.caller.came(p.from)}
	if q.Request, o.err = p.put(d, s); o.err != nil {
		return o
	}
	if !q.Request.Addr.IsValid() && p.command != "resolve" {
		return o // there is nothing to ask about yet
	}
	o.by = decider.Name()
	for _, q.Request.Addr = range Judged(q.Request.Addr) {
		var asked *decide.Asking
		if wait {
			o.answer = decider.Decide(q)
		} else if o.answer, asked = decider.Ask(q); asked != nil {
			o.asked = asked
			continue
		}
		switch o.answer.Outcome {
		case policy.Deny:
			o.asked, o.err = nil, o.refusal()
			return o
		case policy.NeedsProtocol:
			o.open = true
		}
	}
	return o
}

// refusal says in words why the decider is against it.
func (o opinion) refusal() error {
	err := fmt.Errorf("%w by the decider %s", errForbidden, o.by)
	switch {
	case o.answer.Err != nil:
		err = fmt.Errorf("%w: the decider %s gives no answer: %w", errForbidden, o.by, o.answer.Err)
	case o.answer.Reason != "":
		err = fmt.Errorf("%w: %s", err, o.answer.Reason)
	}
	return &socks.Error{Code: socks.NotAllowed, Err: err}
}

// String is what records say of it.
func (o opinion) String() string {
	if o.by == "" {
		return ""
	}
	return "decider " + o.by + ": " + o.answer.String()
}

// undecided is the error for a destination of datagrams that a decider has been asked about.
type undecided struct{ asked *decide.Asking }

func (*undecided) Error() string { return "the decider has not answered yet" }

// consent is what a flow remembers of what the decider has said.
type consent struct {
	said  string // the last time; "": nothing
	stale bool   // something has changed since

	// agreed is when it agreed to each destination. That of an association counts for as long
	// as that of a connection, though it has many.
	agreed recent[destination, time.Time]

	asked []*decide.Asking // of an association: what the decider had not answered when it was looked at
}

// full gives a question of maxAsked that the decider has not answered yet; nil if there are
// fewer.
func (c *consent) full() *decide.Asking {
	c.asked = slices.DeleteFunc(c.asked, func(a *decide.Asking) bool {
		select {
		case <-a.Done():
			return true
		default:
			return false
		}
	})
	if len(c.asked) < maxAsked {
		return nil
	}
	return c.asked[0]
}

// ask asks for an opinion about a destination of the flow. What it has agreed to before goes on for
// a while if the decider gives no answer.
func (f *flow) ask(to destination, s spoken, wait bool) opinion {
	o := f.wish.ask(to, s, wait)
	if o.by == "" || o.asked != nil {
		return o
	}
	answer, keep := f.caller.server.cfg.Decider.Lives()
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &f.consent
	at, before := c.agreed.get(to)
	switch {
	case o.err == nil && o.answer.Err == nil && !o.open:
		c.agreed.put(to, o.answer.At)
	case o.err != nil && o.answer.Err != nil && before && time.Since(at) < answer+keep:
		o.err = nil
		return o
	}
	c.said = o.String()
	return o
}

// askOfDatagrams tells why there may be no datagrams now. They do not wait until it is known what
// they are.
func (f *flow) askOfDatagrams(to destination, s spoken) error {
	f.mu.Lock()
	full := f.consent.full()
	_, before := f.consent.agreed.get(to)
	f.mu.Unlock()
	if full != nil && !before {
		return &undecided{full}
	}
	switch o := f.ask(to, s, false); {
	case o.err != nil:
		return o.err
	case o.asked != nil:
		f.mu.Lock()
		defer f.mu.Unlock()
		if !slices.Contains(f.consent.asked, o.asked) {
			f.consent.asked = append(f.consent.asked, o.asked)
		}
		return &undecided{o.asked}
	case o.open:
		return &socks.Error{Code: socks.NotAllowed, Err: errDatagrams}
	}
	return nil
}

// due tells whether the decider has to be asked again, as it has not agreed for so long to
// what the flow has, or something has changed.
func (f *flow) due(life time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.talks != nil || !f.to.at.Addr().IsValid() {
		return false // each destination is asked about when something goes there
	}
	at, asked := f.consent.agreed.get(f.to)
	due := !asked || f.consent.stale || time.Since(at) > life
	f.consent.stale = false
	return due
}

// askSoon has the decider asked again: something has changed. What it has said of the same
// question still counts.
func (f *flow) askSoon() {
	s := f.caller.server
	if s.decider() == nil {
		return
	}
	f.mu.Lock()
	f.consent.stale = true
	f.mu.Unlock()
	select {
	case s.again <- struct{}{}:
	default: // that is going to be seen
	}
}

// askAgain ends the flow if the decider does not agree to it any more.
func (f *flow) askAgain() {
	f.minds.Store(true)
	to, speech := f.known()
	r, err := f.wish.judge(to, speech)
	if err != nil || r.open {
		return // others see to it
	}
	if err := f.ask(to, speech, true).err; err != nil {
		f.cut(err)
	}
}

// decided is what the decider has said, or "".
func (f *flow) decided() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.consent.said
}

// told is what a record says of a flow in words.
func (f *flow) told() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	said, stood := f.consent.said, f.stood()
	if said != "" && stood != "" {
		return said + "; " + stood
	}
	return said + stood
}

// watchDecider asks again about what is open, when the decider's answers do not count any
// more.
func (s *Server) watchDecider(ctx context.Context) {
	tick := time.NewTicker(askAgainEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.again:
		case <-ctx.Done():
			return
		}
		if d := s.decider(); d != nil {
			life, _ := d.Lives()
			s.askAgain(ctx, life)
		}
	}
}

// askAgain asks about the flows that were not asked about for so long.
func (s *Server) askAgain(ctx context.Context, life time.Duration) {
	var asking sync.WaitGroup
	defer asking.Wait()
	turns := make(chan struct{}, askersAgain)
	for _, c := range s.callers() {
		for _, f := range c.all() {
			if !f.due(life) {
				continue
			}
			select {
			case turns <- struct{}{}:
			case <-ctx.Done():
				return
			}
			asking.Go(func() {
				defer func() { <-turns }()
				f.askAgain()
			})
		}
	}
}
