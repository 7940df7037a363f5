package socks

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// Limits of a [Door] that leaves them at zero.
const (
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultMaxConns         = 10_000
)

// Door is where apps come in: one listener for SOCKS 4, 4a, 5 and 6, HTTP
// CONNECT and plain HTTP proxying, told apart by an app's first byte. Whoever speaks
// something else, or to whom [Admission] does not apply, gets nothing relayed.
//
// A Door may serve several listeners at once. It must not be changed while it
// serves.
type Door struct {
	Relay     Relay        // carries out the requests; needed if Enter is nil
	Admission Admission    // who may come in; the zero value is the strictest
	UDP       UDP          // how datagrams are served; the zero value serves them
	Log       *slog.Logger // nil for none

	// TLS, if it is set, is what apps have to speak below all else. UDP stays outside of
	// it.
	TLS *tls.Config

	// HandshakeTimeout is how long an app may take to say what it wants, from
	// accept on. Zero is DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration

	// MaxConns is how many connections each listener has at once. More are
	// closed as they come. Zero is DefaultMaxConns.
	MaxConns int

	// MaxStrangers is how many of them may be there that have not been let in yet, and
	// MaxHostStrangers how many of those from one host, which has a /64 in IPv6. Zero is
	// as many as there are connections.
	MaxStrangers, MaxHostStrangers int

	// From are the networks whose hosts may come at all: what comes from elsewhere is
	// closed before it takes a stranger's place or TLS's time. Empty: all may.
	From []netip.Prefix

	// Enter, if it is set, begins the stay of an app that has been let in. The stay
	// takes the place of Relay. The error keeps the app outside. It is safe for
	// concurrent use.
	Enter func(ctx context.Context, e Entry) (Stay, error)

	// EarlyReply are ports of targets for which an app hears that it is connected before
	// it is. What it says then travels with the request, which saves its way there and
	// back. There is a price: a refusal shows as a reset, and no address is told.
	// SOCKS 6 has other means for that.
	EarlyReply []uint16

	// Names are what the door's own host is called. Under them, its IP addresses and
	// "localhost" there is a proxy auto-configuration file, as /proxy.pac and
	// /wpad.dat, for whoever asks.
	Names []string
}

// Serve lets apps in through ln until ctx ends, which resets their connections;
// then it returns nil. If somebody else closes ln, the connections there are go
// on, and Serve returns when the last one has ended. In any case it closes ln.
//
// It fails at once if [Admission.Check] does.
func (d *Door) Serve(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	if err := d.Admission.Check(ln.Addr()); err != nil {
		return fmt.Errorf("serve apps at %s: %w", ln.Addr(), err)
	}
	s := d.serving()
	defer s.apps.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		conn, err := s.accept(ctx, ln)
		switch {
		case err == nil:
			s.serve(ctx, conn)
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return nil
		default:
			return fmt.Errorf("accept an app at %s: %w", ln.Addr(), err)
		}
	}
}

// serving is a door while it serves one listener, with nothing left at zero.
type serving struct {
	Door
	free chan struct{} // holds an item for each connection
	apps sync.WaitGroup
	warn Pace
	udp  udpDesk

	sessions  sessions6
	strangers places
	ports     ports6
}

func (d *Door) serving() *serving {
	s := &serving{
		Door: *d,
		free: make(chan struct{}, cmp.Or(d.MaxConns, DefaultMaxConns)),
	}
	s.HandshakeTimeout = cmp.Or(d.HandshakeTimeout, DefaultHandshakeTimeout)
	s.MaxStrangers = cmp.Or(d.MaxStrangers, cap(s.free))
	s.MaxHostStrangers = cmp.Or(d.MaxHostStrangers, s.MaxStrangers)
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	return s
}

// accept waits out what the machine is short of.
func (s *serving) accept(ctx context.Context, ln net.Listener) (net.Conn, error) {
	const shortest, longest = 5 * time.Millisecond, time.Second
	for delay := shortest; ; delay = min(2*delay, longest) {
		conn, err := ln.Accept()
		if err == nil || !slices.ContainsFunc(exhausted, func(e syscall.Errno) bool { return errors.Is(err, e) }) {
			return conn, err
		}
		if s.warn.Allows() {
			s.Log.Warn("cannot accept an app for now", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(delay):
		}
	}
}

// serve hands a connection to a goroutine of its own, if there is room.
func (s *serving) serve(ctx context.Context, conn net.Conn) {
	select {
	case s.free <- struct{}{}:
	default:
		conn.Close()
		if s.warn.Allows() {
			s.Log.Warn("turned an app away: there are too many", "apps", cap(s.free))
		}
		return
	}
	s.apps.Add(1)
	go func() {
		growStack()
		s.open(ctx, conn)
	}()
}

// left notes that a connection is over.
func (s *serving) left() {
	<-s.free
	s.apps.Done()
}

// growStack makes room at once for what a request takes, down to the carrier's records. By itself a
// stack grows step by step, and is copied each time with all that is on it by then.
//
//go:noinline
func growStack() {
	var room [5 << 10]byte
	runtime.KeepAlive(&room)
}

// open sees one connection from accept to where it is relayed, or to its end.
func (s *serving) open(ctx context.Context, conn net.Conn) {
	a := s.receive(conn)
	if a == nil {
		conn.Close()
		s.left()
		return
	}
	if err := a.serve(ctx); a.target == nil {
		a.over(ctx, err)
		a.conn.Close()
		a.place.leave() // of a stranger's: who has been let in has none
		s.left()
		return
	}
	// Here, where there is little on the stack: it keeps what it takes while bytes move.
	relay.StartUntil(ctx, a.conn, a.target, func(r relay.Result) {
		a.over(ctx, r.Err)
		s.left()
	})
}

// over ends an app's stay, and logs how its connection has ended.
func (a *app) over(ctx context.Context, err error) {
	a.tellEnd(ctx, err)
	a.stay.end()
}

// receive gives nil for a connection that may not be here at all.
func (s *serving) receive(conn net.Conn) *app {
	a, err := newApp(s, conn)
	if err != nil {
		s.Log.Error("cannot serve this kind of listener", "error", err)
		return nil
	}
	if !s.mayCome(a.source.Addr()) {
		a.turnAway("nobody may come from there")
		return nil
	}
	place, ok := s.strangers.enter(a.source.Addr(), s.MaxStrangers, s.MaxHostStrangers)
	if !ok {
		a.turnAway("too many have not been let in yet")
		return nil
	}
	a.place = place
	return a
}

// turnAway logs why an app may not be here.
func (a *app) turnAway(why string) {
	if a.door.warn.Allows() {
		a.door.Log.Warn("turned an app away: "+why, "app", a.source)
	}
}

// tellEnd logs how an app's connection has ended.
func (a *app) tellEnd(ctx context.Context, err error) {
	log := a.door.Log
	switch {
	case (errors.Is(err, errNotWelcome) || errors.Is(err, errMethods)) && a.door.warn.Allows():
		log.Warn("refused an app", "app", a.source, "error", err)
	case log.Enabled(ctx, slog.LevelDebug):
		log.Debug("app's connection ended", "app", a.source, "error", err)
	}
}

// mayCome tells whether an address is in [Door.From].
func (s *serving) mayCome(source netip.Addr) bool {
	return len(s.From) == 0 || slices.ContainsFunc(s.From, func(p netip.Prefix) bool { return p.Contains(source) })
}
