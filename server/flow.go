package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/shape"
	"github.com/adit-net/adit/server/sniff"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// flow is one request, from its arrival to the end of what it asked for.
type flow struct {
	caller  *caller
	request socks.Request
	id      int64      // no other flow of the server has it
	asked   socks.Addr // what the request was for when it came
	wish    petition
	heeded  bool   // rules may come to ask what is spoken
	heard   bool   // and it is found out, for them or for the record
	talks   *talks // of an association; nil for what is none
	began   time.Time
	debug   bool
	part    *part       // of the bandwidth; nil for one that was not counted in
	minds   atomic.Bool // what is spoken may count: it does, or rules were asked anew

	up, down       atomic.Int64 // bytes
	sent, received atomic.Int64 // datagrams, up and down
	first          atomic.Int64 // nanoseconds until the target's first byte
	over           sync.Once

	entry   *audit.Entry // nil: the flow is not recorded
	resumed int          // how often the way had changed when the flow began

	judging sync.Mutex // goes before mu: the rules read last have the last word

	mu        sync.Mutex
	line      audit.Record       // what is known of the flow, but for the counts
	cutter    func(reason error) // set while there is something to cut
	cutOff    error              // why there must not be
	forgetter func()             // of an association that keeps what it was permitted
	to        destination        // as far as it is known
	speech    spoken             // as far as it is known
	rule      *policy.Rule       // that has decided; nil: none
	still     standstill
	ration    *ration // nil: no quota counts
	limits    limits
	level     recordLevel // that the rule wants

	sheltered bool           // it relies on IPsec, as a rule requires it
	talkRule  *policy.Rule   // that does so for a destination of an association, or a name
	talkRules *policy.Policy // of which it is

	consent consent // of a decider
}

// newFlow gives a flow to a destination. Its request asks rules about all addresses.
func newFlow(ctx context.Context, c *caller, r socks.Request, to destination) *flow {
	f := &flow{
		caller: c, request: r, id: c.server.counts.number.Add(1), asked: r.Dst, wish: c.petition(r), began: time.Now(),
		debug: c.log.Enabled(ctx, slog.LevelDebug), to: to,
	}
	f.request.Permit = f.permit
	ruled := c.server.policy.Load() != nil || c.server.decider() != nil
	f.consent.agreed.limit = maxAgreed
	f.heeded = ruled && f.wish.command != "resolve"
	f.heard = f.heeded || c.server.cfg.Audit != nil && f.wish.command != "resolve"
	if r.Command == socks.Associate {
		f.talks = newTalks(f)
		f.request.Filter = f.filter
	} else if !f.heard {
		f.speech.protocol = string(sniff.Unknown) // for good
	}
	if ruled && to.name != "" {
		// The name that is judged is the one that is looked up.
		if d, err := to.canonical(); err == nil && d.name != "" {
			f.request.Dst.Name = d.name
		}
	}
	return f
}

// judge tells why the flow may not be, and otherwise whether that depends on what is
// spoken there.
func (f *flow) judge() (open bool, err error) {
	f.judging.Lock()
	defer f.judging.Unlock()
	return f.judgeNow()
}

// judgeNow is judge for who holds f.judging.
func (f *flow) judgeNow() (open bool, err error) {
	to, speech := f.known()
	r, err := f.wish.judge(to, speech)
	if err == nil {
		err = f.shelteredAs(r)
	}
	if _, lacks := errors.AsType[*unprotected](err); lacks {
		f.part.hold() // before anybody does anything about it
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = r.rule
	if err == nil && (r.settled || r.rule == nil) {
		f.part.by(r.rule)
		f.recordBy(r.rule)
		err = cmp.Or(f.rationBy(r.rule), f.keepTo(r.rule))
	}
	return r.open, err
}

// permit is what the flow's request asks rules by. The one that forbids a connection is on
// record.
func (f *flow) permit(name string, at netip.AddrPort) error {
	to := destination{name, at}
	if f.talks != nil {
		return f.permitTalk(to)
	}
	_, speech := f.known()
	r, err := f.wish.judge(to, speech)
	if err != nil && f.request.Command == socks.Connect {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.rule = r.rule
	}
	if err == nil && !r.open {
		err = f.ask(to, speech, true).err
	}
	if err == nil && r.settled && f.wish.command == "resolve" {
		err = f.shelterTalk(r.secure) // this is all that is asked about the name
	}
	return err
}

// filter is by what filtering rules want what a destination of an association sends.
func (f *flow) filter(name string, at netip.AddrPort) string {
	to := destination{name, at}
	r, err := f.wish.judge(to, f.talks.speech(to))
	if err != nil || !r.settled {
		return ""
	}
	return r.rule.Limit.UDPFiltering
}

// permitTalk is permit for an association. The first rule that limits one of its
// destinations limits it, and goes on to when the policy is read again.
func (f *flow) permitTalk(to destination) error {
	speech := f.talks.speech(to)
	r, err := f.wish.judge(to, speech)
	if err == nil && !r.open {
		err = f.askOfDatagrams(to, speech)
	}
	if err == nil && r.settled {
		err = f.shelterTalk(r.secure)
	}
	if err != nil || !r.settled {
		return err
	}
	f.part.alsoBy(r.rule)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recordBy(r.rule)
	if f.ration == nil || f.ration.rule.Name == r.rule.Name { // as in alsoBy
		err = f.rationBy(r.rule)
	}
	if f.limits.none() || f.limits.rule == r.rule.Name {
		err = cmp.Or(err, f.keepTo(r.rule))
	}
	return err
}

// known is where the flow goes and what is spoken, as far as that is known.
func (f *flow) known() (destination, spoken) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.to, f.speech
}

// spoke is what is known to be spoken: of what an association says, what is on record. f.mu
// is held.
func (f *flow) spoke() (protocol, host string) {
	if f.talks != nil {
		return f.line.Protocol, f.line.Host
	}
	return f.speech.protocol, f.speech.host
}

// speaks says what is spoken.
func (f *flow) speaks(s spoken) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.speech = s
}

// reaches says more of the destination.
func (f *flow) reaches(at netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.Addr().IsValid() && f.wish.command != "resolve" {
		f.to.at = at
	}
}

// cut breaks what the flow has, or is about to have.
func (f *flow) cut(reason error) {
	f.mu.Lock()
	f.cutOff = reason
	cut := f.cutter
	f.mu.Unlock()
	if cut != nil {
		cut(reason)
	}
}

// holds names what cut is to break, and tells why it must be broken at once if
// that is so.
func (f *flow) holds(cut func(error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutter = cut
	return f.cutOff
}

// connected gives the conn through which the flow's bytes go; it ends with it.
func (f *flow) connected(c relay.Conn) (relay.Conn, error) {
	f.reached(addrPort(c.RemoteAddr()))
	w := &watchedConn{Conn: c, flow: f}
	if f.heard {
		w.ear = newListener(f, c)
	}
	f.reaches(addrPort(c.RemoteAddr()))
	reason, open := f.holds(w.Fail), false
	if reason == nil {
		open, reason = f.judge() // what has changed since the last time nobody has seen
	}
	if reason == nil && !open {
		to, speech := f.known()
		o := f.ask(to, speech, true)
		open, reason = o.open, o.err
	}
	if open {
		f.minds.Store(true)
	} else if w.ear != nil {
		w.ear.pass()
	}
	if f.heard && !f.heeded {
		w.ear.overhear(f.request.Initial)
	}
	if reason != nil {
		w.Fail(reason)
		return nil, &socks.Error{Code: socks.NotAllowed, Err: reason}
	}
	return relay.Paced(w, f.part), nil
}

// await waits until n bytes of the app's, which the target gets together with the
// connection, have their turn.
func (f *flow) await(ctx context.Context, n int) error {
	if f.part.flow.Try(shape.Up, n) {
		return nil
	}
	reason := f.holds(func(error) { f.part.close() })
	if reason == nil {
		err := f.within(ctx, func() error { return f.part.flow.TakeAll(shape.Up, n) })
		if err == nil || ctx.Err() != nil {
			return err
		}
		reason = f.holds(nil)
	}
	return &socks.Error{Code: socks.NotAllowed, Err: reason}
}

// say tells the target what the app has said already. If it fails, the connection is
// broken.
func (f *flow) say(ctx context.Context, c relay.Conn, b []byte) error {
	err := f.within(ctx, func() error {
		_, err := c.Write(b)
		return err
	})
	if err != nil {
		relay.Fail(c, err)
	}
	return err
}

// within has do wait no longer than ctx lasts: the flow is cut then.
func (f *flow) within(ctx context.Context, do func() error) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		f.cut(context.Cause(ctx))
	})
	err := do()
	if !stop() {
		<-ended
		err = context.Cause(ctx)
	}
	return err
}

// refused ends the flow before it had anything.
func (f *flow) refused(err error) { f.end(err, socks.CodeOf(err)) }

// end closes the flow's record, once, and counts it out.
func (f *flow) end(err error, code socks.Code) {
	f.over.Do(func() {
		f.mu.Lock()
		err = cmp.Or(f.cutOff, err) // whoever sees first that it was cut does not know why
		f.mu.Unlock()
		f.caller.leave(f)
		f.release()
		f.closeRecord(err, code)
		f.count(err, code)
		f.write(err, code)
	})
}

// note writes the line of a flow that was not counted in.
func (f *flow) note(err error) {
	f.closeRecord(err, socks.CodeOf(err))
	f.count(err, socks.CodeOf(err))
	f.write(err, socks.CodeOf(err))
}

// write writes the flow's line, unless its record says the same and nobody looks for faults.
func (f *flow) write(err error, code socks.Code) {
	level := slog.LevelInfo
	if f.entry != nil {
		level = slog.LevelDebug
	}
	if level == slog.LevelDebug && !f.debug {
		return
	}
	attrs := []any{
		slog.Any("remote", f.request.Source),
		slog.Int("code", int(code)),
		slog.Int64("up", f.up.Load()),
		slog.Int64("down", f.down.Load()),
		slog.Duration("duration", time.Since(f.began).Round(time.Millisecond)),
	}
	if f.request.Command == socks.Associate {
		attrs = append(attrs, slog.Int64("datagrams_up", f.sent.Load()), slog.Int64("datagrams_down", f.received.Load()))
	}
	if rule := f.ruledBy(); rule != "" {
		attrs = append(attrs, slog.String("rule", rule))
	}
	if f.debug {
		attrs = append(attrs, slog.String("target", f.request.Dst.String()))
		if said := f.decided(); said != "" {
			attrs = append(attrs, slog.String("decider", said))
		}
		if err != nil {
			attrs = append(attrs, slog.Any("error", err))
		}
	}
	f.caller.log.Log(context.Background(), level, "flow ended", attrs...)
}

// ruledBy names the rule that has decided, or "".
func (f *flow) ruledBy() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rule == nil {
		return ""
	}
	return f.rule.Name
}
