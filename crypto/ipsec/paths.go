package ipsec

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Paths knows what protects many paths, for the price of one. Its fields may not change
// once it is used. Safe for concurrent use.
type Paths struct {
	Detector *Detector

	// Changed, if it is set, is called after the protection of one or more followed
	// paths has become another. That there is a new association like the last is no
	// change.
	Changed func()

	mu       sync.Mutex
	view     *View  // the last one; nil as long as nobody watches
	views    uint64 // how many there have been
	followed map[*Followed]struct{}
}

// Serve keeps what is followed up to date, within a second, until ctx ends. It hears of
// changes from the kernel, which takes CAP_NET_ADMIN on Linux, and from charon. Who may not
// hear looks every 500 ms. A charon that hangs protects nothing, after two seconds.
func (s *Paths) Serve(ctx context.Context) { s.serve(ctx, pollEvery) }

func (s *Paths) serve(ctx context.Context, every time.Duration) {
	s.Detector.watch(ctx, every, func(v *View) { s.renew(ctx, v) })
	s.mu.Lock()
	s.view = nil // it would grow old
	s.mu.Unlock()
}

func (s *Paths) renew(ctx context.Context, v *View) {
	s.mu.Lock()
	s.view = v
	s.views++
	number, all := s.views, slices.Collect(maps.Keys(s.followed))
	s.mu.Unlock()
	changed := false
	for _, f := range all {
		if f.look(ctx, v, number) {
			changed = true
		}
	}
	if changed && s.Changed != nil {
		s.Changed()
	}
}

// Follow begins to follow a path, and has looked at it when it returns. What it gives must be
// ended by Stop. tell, if it is not nil, is called when the protection has become
// another, by one goroutine at a time; it must not wait for long.
func (s *Paths) Follow(ctx context.Context, p Path, tell func(Protection)) *Followed {
	f := &Followed{paths: s, path: p, tell: tell}
	s.mu.Lock()
	v, number := s.view, s.views
	if s.followed == nil {
		s.followed = make(map[*Followed]struct{})
	}
	s.followed[f] = struct{}{}
	s.mu.Unlock()
	if v == nil {
		v = s.Detector.View()
	}
	f.look(ctx, v, number)
	return f
}

// Followed is one path that is followed.
type Followed struct {
	paths *Paths
	path  Path
	tell  func(Protection)

	looking sync.Mutex // held while somebody looks

	mu     sync.Mutex
	known  bool
	number uint64 // of the view that now was seen in
	now    Protection
}

// Protection is what protects the path, as was seen last. If it could not be looked
// at, Reason says why.
func (f *Followed) Protection() Protection {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Protected is Protection.Protected, without a copy of all the rest.
func (f *Followed) Protected() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.Protected()
}

// Stop ends the following. What was seen last stays.
func (f *Followed) Stop() {
	f.paths.mu.Lock()
	defer f.paths.mu.Unlock()
	delete(f.paths.followed, f)
}

// look looks at the path in the view of a number, and tells whether its protection
// has become another since it was looked at first.
func (f *Followed) look(ctx context.Context, v *View, number uint64) (changed bool) {
	f.looking.Lock()
	defer f.looking.Unlock()
	f.mu.Lock()
	known, old, seen := f.known, f.now, f.number
	f.mu.Unlock()
	if known && number < seen {
		return false // somebody has been faster with a later one
	}
	now, err := v.glance(ctx, f.path)
	if err != nil {
		if ctx.Err() != nil && known {
			return false // which may be the error
		}
		now = Protection{Reason: err.Error()}
	}
	f.mu.Lock()
	f.known, f.number, f.now = true, number, now
	f.mu.Unlock()
	old.Since = now.Since
	if !known || now == old {
		return false
	}
	if f.tell != nil {
		f.tell(now)
	}
	return true
}

// glance is Look, at no price where there is no IPsec at all.
func (v *View) glance(ctx context.Context, p Path) (Protection, error) {
	if len(v.detector.Networks) == 0 && v.bare() {
		return Protection{Reason: "there is no IPsec on this machine"}, nil
	}
	return v.Look(ctx, p)
}
