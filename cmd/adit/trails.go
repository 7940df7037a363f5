package main

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/adit-net/adit/crypto/ipsec"
)

// trails are the paths to peers of a WireGuard server, which move as they like.
type trails struct {
	paths   *ipsec.Paths
	port    uint16 // of ours
	changed func() // the protection of some is another than before, as they have moved

	mu  sync.Mutex // guards what follows
	all map[*trail]struct{}
}

// path is that to a place.
func (s *trails) path(to netip.AddrPort) ipsec.Path {
	return ipsec.Path{Local: netip.AddrPortFrom(netip.Addr{}, s.port), Remote: to, UDP: true}
}

// mtu says how large packets may be on the path to a place; 0 if that is not known.
func (s *trails) mtu(ctx context.Context, to netip.AddrPort) int {
	return s.paths.Look(ctx, s.path(to)).MTU
}

// guard tells whether the path to a place is protected, as long as packets leave by a device.
func (s *trails) guard(place netip.AddrPort) (way func() (device uint32, open bool), stop func()) {
	f := s.paths.Follow(context.Background(), s.path(place), nil)
	return func() (uint32, bool) {
		p := f.Protection()
		return p.Device(), p.Protected()
	}, f.Stop
}

// follow says what protects the path to where a peer is, until stop.
func (s *trails) follow(place func() netip.AddrPort) (words func() []string, stop func()) {
	t := &trail{trails: s, place: place}
	t.looked() // so that a first look costs no flow any time
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*trail]struct{})
	}
	s.all[t] = struct{}{}
	return t.words, func() {
		s.mu.Lock()
		delete(s.all, t)
		s.mu.Unlock()
		t.end()
	}
}

// look sees whether peers have moved to where the protection is another.
func (s *trails) look() {
	s.mu.Lock()
	all := make([]*trail, 0, len(s.all))
	for t := range s.all {
		all = append(all, t)
	}
	s.mu.Unlock()
	changed := false
	for _, t := range all {
		changed = t.looked() || changed
	}
	if changed {
		s.changed()
	}
}

// trail is the path to one peer.
type trail struct {
	trails *trails
	place  func() netip.AddrPort

	mu    sync.Mutex // guards what follows
	at    netip.AddrPort
	path  *ipsec.Followed // nil before
	other bool            // the peer has moved to where the words are others, since the last look
	over  bool
}

// words are those that rules have for what protects the path to where the peer is now.
func (t *trail) words() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.see()
}

// looked is a look, and tells whether the peer has moved since the last one to where the words
// are others. Flows may have been judged by these meanwhile, but not all.
func (t *trail) looked() (other bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.see()
	other, t.other = t.other, false
	return other
}

// see is words. mu is held.
func (t *trail) see() []string {
	before := t.said()
	at := t.place()
	if t.over || !at.IsValid() || t.path != nil && at == t.at {
		return before
	}
	if t.path != nil {
		t.path.Stop()
	}
	t.at, t.path = at, t.trails.paths.Follow(context.Background(), t.trails.path(at), nil)
	now := t.said()
	t.other = t.other || !slices.Equal(before, now)
	return now
}

// said are the words for where the peer was seen last. mu is held.
func (t *trail) said() []string {
	if t.path == nil {
		return nil
	}
	return ipsecWords(t.path.Protection())
}

// end ends the following. What was seen last stays.
func (t *trail) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.path != nil {
		t.path.Stop()
	}
}
