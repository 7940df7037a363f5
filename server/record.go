package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/sniff"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// originOf is where the records of somebody come from.
func originOf(w policy.Who) audit.Origin {
	o := audit.Origin{
		User: w.User, Device: w.Device, Groups: strings.Join(w.Groups, ","), Source: w.From,
		Door: w.Door, Method: w.Method, Cipher: w.Cipher,
	}
	layersOf(w.Protection, &o)
	return o
}

// origin adds what only records say of the lane.
func (l *lane) origin(o *audit.Origin) {
	p := l.last().Protection
	o.Session, o.Carrier, o.Version, o.KeyExchange = l.name(), p.Carrier, p.Version, p.KeyExchange
}

// resumes is asked for twice by each flow, and disturbs none of the others.
func (l *lane) resumes() int { return int(l.taken.Load()) }

// resumes is how often the way that the caller's requests come has changed.
func (c *caller) resumes() int {
	if c.resume == nil {
		return 0
	}
	return c.resume()
}

// record opens the flow's record. A flow that has none must not go on.
func (f *flow) record() error {
	log := f.caller.server.cfg.Audit
	if log == nil {
		return nil
	}
	// Piece by piece in its place: copies would make the goroutine's stack grow, which costs more
	// than the record.
	r, line := &f.request, &f.line
	line.Origin = originOf(f.caller.who())
	if f.caller.more != nil {
		f.caller.more(&line.Origin)
	}
	line.Dialect = dialectWord(r.Dialect)
	line.Source, line.SourcePort = cmp.Or(r.Source.Addr(), line.Source), r.Source.Port()
	line.Kind, line.Begin, line.Decision = audit.Flow, f.began, audit.Allowed
	line.Command, line.Name, line.Address, line.Port = f.wish.command, r.Dst.Name, r.Dst.IP, r.Dst.Port
	f.resumed = f.caller.resumes()
	begin := log.Begin
	if p := f.caller.server.policy.Load(); p != nil && p.Discreet() {
		begin = log.Hold
	}
	entry, err := begin(f)
	if err != nil {
		return &socks.Error{Code: socks.GeneralFailure, Err: err}
	}
	f.entry = entry
	return nil
}

// reached notes what the flow has got a connection with, and how long that took.
func (f *flow) reached(peer netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if peer.IsValid() {
		f.line.Address, f.line.Port = peer.Addr(), peer.Port()
	}
	f.line.Connect = time.Since(f.began)
}

// recognised notes what is spoken in an association.
func (f *flow) recognised(v sniff.Verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.line.Protocol, f.line.Host = string(v.Protocol), v.Host
}

// Progress fills in how far the flow has come.
func (f *flow) Progress(r *audit.Record) {
	f.progress(r)
	f.recordLevel().conceal(r)
}

func (f *flow) progress(r *audit.Record) {
	f.mu.Lock()
	*r = f.line
	if f.heard {
		r.Protocol, r.Host = f.spoke()
	}
	f.mu.Unlock()
	r.Duration = time.Since(f.began)
	r.Up, r.Down = f.up.Load(), f.down.Load()
	r.Sent, r.Received = f.sent.Load(), f.received.Load()
	r.FirstByte = time.Duration(f.first.Load())
	r.Rule, r.What = f.ruledBy(), f.told()
	r.Resumes = f.caller.resumes() - f.resumed
}

// Cut breaks the flow because it cannot be recorded any more.
func (f *flow) Cut(reason error) { f.cut(reason) }

// closeRecord closes the flow's record.
func (f *flow) closeRecord(err error, code socks.Code) {
	if f.entry == nil {
		return
	}
	level := f.recordLevel()
	refused := decisionOf(err, code) == flowRefused
	if !refused && level == recordNone && f.entry.Drop() {
		return
	}
	var r audit.Record
	f.progress(&r)
	r.End = endWord(err, code)
	if refused {
		r.Decision = audit.Refused
	} else {
		level.conceal(&r)
	}
	f.entry.End(r)
}

// endWord says how a flow has ended, in one of few ways.
func endWord(err error, code socks.Code) string {
	refusal, refused := errors.AsType[tunnel.Refusal](err)
	switch {
	case code != socks.Succeeded:
		return codeWord(code)
	case err == nil:
		return "closed"
	case errors.Is(err, audit.ErrNotRecorded):
		return "not recorded"
	case errors.Is(err, errExpired):
		return errExpired.Error()
	case errors.Is(err, errStoodStill):
		return "not protected"
	case errors.Is(err, errForbidden):
		return codeWord(socks.NotAllowed)
	case refused:
		return refusal.Error()
	case errors.Is(err, context.Canceled):
		return "cut off"
	}
	return "reset"
}

func codeWord(c socks.Code) string {
	switch c {
	case socks.NotAllowed:
		return "not allowed"
	case socks.NetworkUnreachable:
		return "network unreachable"
	case socks.HostUnreachable:
		return "host unreachable"
	case socks.ConnectionRefused:
		return "connection refused"
	case socks.TTLExpired:
		return "timed out"
	case socks.AddressNotSupported:
		return "address not supported"
	case socks.GeneralFailure:
		return "failed"
	}
	return fmt.Sprintf("failed with code %d", c)
}

// record opens the session's record.
func (l *lane) record() error {
	log := l.server.cfg.Audit
	if log == nil {
		return nil
	}
	o := originOf(l.who())
	l.origin(&o)
	l.line = audit.Record{Kind: audit.Session, Origin: o, SourcePort: l.last().Remote.Port(), Begin: l.since}
	entry, err := log.Begin(l.session)
	if err != nil {
		return err
	}
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	l.entry = entry
	return nil
}

// Progress fills in how far the session has come.
func (s *session) Progress(r *audit.Record) {
	st, _ := s.status()
	*r = s.line
	r.Duration = time.Since(s.since)
	r.Up, r.Down, r.Resumes = st.Up, st.Down, st.Resumes
}

// Cut ends the session because it cannot be recorded any more.
func (s *session) Cut(reason error) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.fail(reason)
}

// closeRecord closes the session's record, once its last lane has ended.
func (s *session) closeRecord(why error) {
	s.server.mu.Lock()
	entry := s.entry
	s.server.mu.Unlock()
	if entry == nil {
		return
	}
	var r audit.Record
	s.Progress(&r)
	r.End = endWord(why, socks.Succeeded)
	entry.End(r)
}

// noteResolve leaves a record of a name that somebody who comes without SOCKS has asked for.
func (p petition) noteResolve(name string, at netip.AddrPort, denied error) error {
	p.caller.server.counts.ends(decisionOf(denied, socks.CodeOf(denied)), sniff.DNS)
	if denied != nil {
		p.refuses(name, denied)
	}
	return p.note(destination{name, at}, audit.Record{Name: name, Port: 53}, denied)
}

// note leaves a record of a flow that took no time, unless the rule that allows it wants none.
func (p petition) note(to destination, r audit.Record, denied error) error {
	log := p.caller.server.cfg.Audit
	if log == nil {
		return nil
	}
	level := recordFull
	if ruling, err := p.judge(to, spoken{}); err == nil && denied == nil {
		if level = levelOf(ruling.rule); !ruling.settled {
			level = undecidedLevel(ruling.rule)
		}
	}
	if level == recordNone {
		return nil
	}
	r.Kind, r.Origin, r.Begin, r.Command = audit.Flow, originOf(p.caller.who()), time.Now(), p.command
	r.Dialect, r.Source, r.SourcePort = p.dialect, cmp.Or(p.from.Addr(), r.Source), p.from.Port()
	r.Decision, r.End = audit.Allowed, "closed"
	if denied != nil {
		r.Decision, r.End = audit.Refused, codeWord(socks.NotAllowed)
	}
	level.conceal(&r)
	return log.Note(r)
}

const (
	pingEvery = time.Minute // for one target there is no more than a record
	maxPinged = 1024        // targets are remembered for that
)

// pings is when a visitor's pings were put on record last.
type pings struct {
	mu   sync.Mutex
	last map[pingKey]time.Time
}

type pingKey struct {
	target netip.Addr
	denied bool
}

// notePing leaves a record of a ping. A program that pings all day leaves one a minute.
func (p petition) notePing(target netip.Addr, denied error, seen *pings) error {
	log := p.caller.server.cfg.Audit
	seen.mu.Lock()
	defer seen.mu.Unlock()
	key := pingKey{target, denied != nil}
	if time.Since(seen.last[key]) < pingEvery && (log == nil || log.Failed() == nil) {
		return nil
	}
	if denied != nil {
		p.refuses(target.String(), denied)
	}
	if err := p.note(destination{at: netip.AddrPortFrom(target, 0)}, audit.Record{Address: target}, denied); err != nil {
		return err
	}
	if seen.last == nil || len(seen.last) >= maxPinged {
		seen.last = make(map[pingKey]time.Time)
	}
	seen.last[key] = time.Now()
	return nil
}

// Attempt is somebody's attempt to prove who he is.
type Attempt struct {
	User   string // as whom; perhaps nobody is called so
	Method string // "password"
	Door   string // where; empty at a session
	Source netip.AddrPort
	Err    error // why it has failed; nil: it has not
}

// Record leaves a record of an attempt.
func (s *Server) Record(a Attempt) {
	s.attempted(audit.Origin{User: a.User, Method: a.Method, Door: a.Door}, a.Source, a.Err)
}

// attempted is Record where more is known.
func (s *Server) attempted(o audit.Origin, source netip.AddrPort, err error) {
	s.counts.attempted(o.Method, err != nil)
	if errors.Is(err, users.ErrPasswordLimit) {
		return // there was a record for each of those before
	}
	if users.ValidName(o.User) != nil {
		o.User = "" // perhaps somebody has mistaken the field for the other one
	}
	s.note(audit.Login, o, source, "", err)
}

// refused leaves a record of a device that may not do what it has come for.
func (s *Server) refused(o audit.Origin, source netip.AddrPort, what string, why tunnel.Refusal) {
	o.Method = cmp.Or(o.Method, "device")
	if !why.Temporary() && why != tunnel.RefusedSession { // those are no matter of who it is
		s.counts.attempted(o.Method, true)
	}
	s.note(audit.Failure, o, source, what, why)
}

// note leaves a record of something that took no time. A failure is one that says why.
func (s *Server) note(kind audit.Kind, o audit.Origin, source netip.AddrPort, what string, err error) {
	o.Source = cmp.Or(source.Addr(), o.Source)
	if err != nil {
		s.refusals.add(Refusal{Time: time.Now(), User: o.User, Source: o.Source, Command: cmp.Or(what, "login"), Target: o.Door, Why: err.Error()})
	}
	log := s.cfg.Audit
	if log == nil {
		return
	}
	r := audit.Record{Kind: kind, Origin: o, SourcePort: source.Port(), Begin: time.Now(), What: what}
	if err != nil {
		r.Kind, r.End = audit.Failure, err.Error()
	}
	// The Writer counts what it cannot take.
	_ = log.Note(r)
}
