package wglink

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	// baseSize is a packet inside WireGuard that comes through wherever IPsec is, once or
	// twice, over any link that is good for IPv6.
	baseSize = 960

	// surveyEvery is how often it is seen to what is due.
	surveyEvery = 500 * time.Millisecond

	// lookEvery is how often the system is asked for its word on a path in use, and
	// searchEvery how often it is found out what comes through there.
	lookEvery   = 5 * time.Second
	searchEvery = 5 * time.Second

	// raiseEvery is how often it is tried whether more comes through again, and
	// silenceLasts for how long nobody is asked who does not answer.
	raiseEvery   = time.Minute
	silenceLasts = 30 * time.Second

	// maxSearches is how many searches there may be at once.
	maxSearches = 64

	// maxAlarms bounds the paths to look at again at once.
	maxAlarms = 64
)

// survey keeps an engine's gauges right: by what the system knows of paths, and by what comes
// through. Routers that drop large packets and say nothing are found by ICMP echo requests of
// two sizes: if thrice the smaller one is answered and the larger one is not, packets become
// small at once, and then as large as comes through. RFC 8899 calls that datagram packetization
// layer path MTU discovery.
type survey struct {
	cable *cable
	path  func(ctx context.Context, to netip.AddrPort) int // the system's word; 0: none
	moved func()                                           // is told that peers have moved; nil: nobody is
	hints chan struct{}                                    // has room for one

	mu     sync.Mutex
	alarms map[netip.Addr]struct{} // to where something was too large
}

func newSurvey(c *cable, path func(context.Context, netip.AddrPort) int) *survey {
	return &survey{cable: c, path: path, hints: make(chan struct{}, 1), alarms: map[netip.Addr]struct{}{}}
}

// hint has gauges looked at soon: a peer has come, or moved.
func (s *survey) hint() {
	select {
	case s.hints <- struct{}{}:
	default:
	}
}

// alarm says that something was too large for a path, by what the system knows.
func (s *survey) alarm(to netip.Addr) {
	s.mu.Lock()
	if len(s.alarms) < maxAlarms {
		s.alarms[to] = struct{}{}
	}
	s.mu.Unlock()
	s.hint()
}

// run works until ctx ends.
func (s *survey) run(ctx context.Context) {
	var searches sync.WaitGroup
	defer searches.Wait()
	room := make(chan struct{}, maxSearches)
	tick := time.NewTicker(surveyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.hints:
		}
		s.mu.Lock()
		alarms := s.alarms
		s.alarms = map[netip.Addr]struct{}{}
		s.mu.Unlock()
		moved := false
		for _, g := range s.cable.sizes.each() {
			moved = s.look(ctx, g, alarms) || moved
			if !g.isDue(time.Now()) {
				continue
			}
			select {
			case room <- struct{}{}:
				searches.Go(func() {
					s.search(ctx, g)
					<-room
				})
			default:
				g.put(func() { g.searching = false })
			}
		}
		if moved && s.moved != nil {
			s.moved()
		}
	}
}

// look asks the system about a gauge's path, if that may have changed, and tells whether the
// peer has moved.
func (s *survey) look(ctx context.Context, g *gauge, alarms map[netip.Addr]struct{}) (moved bool) {
	at := g.remote()
	if !at.IsValid() {
		return false
	}
	now := time.Now()
	g.mu.Lock()
	moved = at != g.at
	_, alarmed := alarms[at.Addr()]
	idle := !g.busy.Load() || now.Sub(g.looked) < lookEvery
	g.mu.Unlock()
	if !moved && !alarmed && idle {
		return false
	}
	known := s.cable.sizes.mtu
	if s.path != nil {
		if path := s.path(ctx, at); path > 0 {
			known = inside(path, known, at.Addr())
		}
	}
	g.put(func() {
		g.looked = now
		if moved || known != g.known { // what was found is about another path
			g.found, g.due = 0, time.Time{}
		}
		g.at, g.known = at, known
		if alarmed {
			g.due = time.Time{}
			g.busy.Store(true)
		}
	})
	return moved
}

// put changes what mu guards, and the limit with it.
func (g *gauge) put(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	g.settle()
}

// isDue tells whether to begin a search.
func (g *gauge) isDue(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	due := g.at.IsValid() && g.own.IsValid() && g.peer.IsValid() && !g.searching && g.known > baseSize &&
		!now.Before(g.due) && g.busy.Swap(false)
	g.searching = g.searching || due
	return due
}

// search finds out what comes through.
func (s *survey) search(ctx context.Context, g *gauge) {
	g.mu.Lock()
	at, top, raise := g.at, g.known, g.found > 0 && !time.Now().Before(g.raise)
	g.mu.Unlock()
	outcome := lost
	if raise {
		if outcome = s.try(ctx, g, top); outcome == passes {
			g.put(func() { g.found = 0 })
		}
	}
	if outcome == lost {
		if outcome = s.try(ctx, g, int(g.limit.Load())); outcome == lost {
			s.narrow(ctx, g, at, top)
		}
	}
	g.put(func() {
		now := time.Now()
		g.searching, g.due = false, now.Add(searchEvery)
		if outcome == silent {
			g.due = now.Add(silenceLasts)
		}
		if raise {
			g.raise = now.Add(raiseEvery)
		}
	})
}

// narrow finds the size that comes through to where the peer is, below one that does not.
func (s *survey) narrow(ctx context.Context, g *gauge, at netip.AddrPort, top int) {
	low, high := baseSize, top
	for {
		g.put(func() {
			if g.at == at {
				g.found, g.raise = low, time.Now().Add(raiseEvery)
			}
		})
		for before := low; low == before; {
			middle := (low + high) / 2 / padding * padding
			if middle <= low || ctx.Err() != nil {
				return
			}
			if s.try(ctx, g, middle) == passes {
				low = middle
			} else {
				high = middle
			}
		}
	}
}

// trial is what came of a try.
type trial int

const (
	passes trial = iota
	lost         // but smaller ones pass
	silent       // nothing comes back
)

const (
	// maxLost and maxSilent are after how many echoes it is settled.
	maxLost, maxSilent = 3, 2

	// answerWithin is how long to wait for any answer, and laterBy how much later than that to
	// a small packet the one to a large packet may be, at least.
	answerWithin = 2 * time.Second
	laterBy      = 250 * time.Millisecond
)

// try finds out whether packets of a size come through to a peer, and back.
func (s *survey) try(ctx context.Context, g *gauge, size int) trial {
	for losses, silences := 0, 0; ; {
		switch s.compare(ctx, g, size) {
		case passes:
			return passes
		case lost:
			if losses++; losses == maxLost {
				return lost
			}
		case silent:
			if silences++; silences == maxSilent || ctx.Err() != nil {
				return silent
			}
		}
	}
}

// compare sends a small packet and one of a size.
func (s *survey) compare(ctx context.Context, g *gauge, size int) trial {
	small, large := s.cable.ask(g.own, g.peer, baseSize), s.cable.ask(g.own, g.peer, size)
	defer s.cable.echoes.forget(small)
	defer s.cable.echoes.forget(large)
	sent, timeout := time.Now(), time.NewTimer(answerWithin)
	defer timeout.Stop()
	select {
	case <-large.answered:
		return passes
	case <-small.answered:
	case <-timeout.C:
		return silent
	case <-ctx.Done():
		return silent
	}
	timeout.Reset(max(laterBy, 2*time.Since(sent)))
	select {
	case <-large.answered:
		return passes
	case <-timeout.C:
		return lost
	case <-ctx.Done():
		return silent
	}
}
