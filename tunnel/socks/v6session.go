package socks

import (
	"crypto/rand"
	"math/bits"
	"net/netip"
	"sync"
	"time"
)

const (
	maxSessions6  = 1024 // at one listener; the one that nobody has used for longest goes
	maxTokens6    = 1024 // in a session's window
	sessionIdle6  = 10 * time.Minute
	sessionLife6  = time.Hour // then whoever it is has to say so again
	sessionBytes6 = 16        // in an id
)

// sessions6 are the SOCKS 6 sessions at one listener. An app that is in one need not
// say again who it is. The zero value is ready; methods are safe for concurrent use.
type sessions6 struct {
	mu   sync.Mutex
	byID map[string]*session6
}

type session6 struct {
	user        string
	by          Method     // which it began by
	from        netip.Addr // where all of its connections come from
	began, used time.Time
	tokens      *tokens6 // nil before the app has asked for some

	ports map[netip.AddrPort]Binding // that several peers may connect to, by their addresses
	kept  map[uint16]struct{}        // ports of UDP that may be named
}

func (s *session6) over(now time.Time) bool {
	return now.Sub(s.used) > sessionIdle6 || now.Sub(s.began) > sessionLife6
}

// begin begins a session for a guest, and gives its id.
func (t *sessions6) begin(g *guest) []byte {
	now, id := time.Now(), make([]byte, sessionBytes6)
	rand.Read(id) // never fails
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = make(map[string]*session6)
	}
	if len(t.byID) >= maxSessions6 {
		t.makeRoom(now)
	}
	t.byID[string(id)] = &session6{user: g.user, by: g.by, from: g.source.Addr(), began: now, used: now}
	return id
}

// makeRoom drops the sessions that are over, or else the idlest.
func (t *sessions6) makeRoom(now time.Time) {
	var idlest string
	for id, s := range t.byID {
		if s.over(now) {
			delete(t.byID, id)
		} else if best := t.byID[idlest]; best == nil || s.used.Before(best.used) {
			idlest = id
		}
	}
	if len(t.byID) >= maxSessions6 {
		delete(t.byID, idlest)
	}
}

// user tells whose a session is, and by which method that was proved, if it goes on and
// may be used from there.
func (t *sessions6) user(id []byte, from netip.Addr) (user string, by Method, ok bool) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[string(id)]
	if s == nil || s.from != from {
		return "", 0, false
	}
	if s.over(now) {
		delete(t.byID, string(id))
		return "", 0, false
	}
	s.used = now
	return s.user, s.by, true
}

// end ends a session, if it is this guest's.
func (t *sessions6) end(id []byte, g *guest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byID[string(id)]; s != nil && s.user == g.user && s.from == g.source.Addr() {
		delete(t.byID, string(id))
	}
}

// lend lets the other requests of a session accept peers at a port, and gives false if
// there is no such session any more.
func (t *sessions6) lend(id []byte, at netip.AddrPort, port Binding) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[string(id)]
	if s == nil {
		return false
	}
	if s.ports == nil {
		s.ports = make(map[netip.AddrPort]Binding)
	}
	s.ports[at] = port
	return true
}

// takeBack is the end of lend.
func (t *sessions6) takeBack(id []byte, at netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byID[string(id)]; s != nil {
		delete(s.ports, at)
	}
}

// port gives the port that a session has at an address; nil if it has none.
func (t *sessions6) port(id []byte, at netip.AddrPort) Binding {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byID[string(id)]; s != nil {
		return s.ports[at]
	}
	return nil
}

// reserve lets one other request of a session name a port of UDP.
func (t *sessions6) reserve(id []byte, port uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[string(id)]
	if s == nil {
		return
	}
	if s.kept == nil {
		s.kept = make(map[uint16]struct{})
	}
	s.kept[port] = struct{}{}
}

// claim tells whether a session has a port of UDP that nobody in it has named, which
// it has no longer then.
func (t *sessions6) claim(id []byte, port uint16) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[string(id)]
	if s == nil {
		return false
	}
	_, kept := s.kept[port]
	delete(s.kept, port)
	return kept
}

// tokens does what a request asks of its session's tokens, and says what came of it.
// It gives false if the request spends one that cannot be spent.
func (t *sessions6) tokens(id []byte, o Options6, say *Options6) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[string(id)]
	if s == nil {
		return o.Token == nil // dropped a moment ago
	}
	if s.tokens == nil && o.WindowRequest > 0 {
		s.tokens = newTokens6(o.WindowRequest)
	}
	if o.Token != nil {
		if s.tokens == nil || !s.tokens.spend(*o.Token) {
			return false
		}
		say.TokenAccepted = true
	}
	if s.tokens != nil {
		say.Window = &TokenWindow6{Base: s.tokens.base, Size: uint32(len(s.tokens.spent))}
	}
	return true
}

// tokens6 is a window of tokens, each of which is good once. Its size divides 2^32,
// so that a token's place in spent is its remainder.
type tokens6 struct {
	base  uint32
	spent []bool
}

// newTokens6 gives at most as many tokens as are wanted, which is more than none.
func newTokens6(wanted uint32) *tokens6 {
	return &tokens6{spent: make([]bool, 1<<(bits.Len32(min(wanted, maxTokens6))-1))}
}

// spend spends a token, if it is in the window and not spent. The window moves past
// what is spent at its low end. One near its high end moves it on as well: of those
// that get lost on the way there would else be an end of all.
func (w *tokens6) spend(token uint32) bool {
	size := uint32(len(w.spent))
	step := max(1, size/4)
	off := token - w.base // modulo 2^32
	if off >= size || w.spent[token%size] {
		return false
	}
	w.spent[token%size] = true
	if off >= size-step {
		for range step {
			w.drop()
		}
	}
	for w.spent[w.base%size] {
		w.drop()
	}
	return true
}

// drop moves the window on by one.
func (w *tokens6) drop() {
	w.spent[w.base%uint32(len(w.spent))] = false
	w.base++
}
