package tlslink

import (
	"container/list"
	"net"
	"sync"

	"github.com/adit-net/adit/crypto/keys"
)

// visitor is an accepted connection.
type visitor struct {
	wire
	lobby *lobby
	place *list.Element // in lobby.waiting; guarded by lobby.mu; nil once admitted

	// server is the key of the certificate that the visitor was shown. It is
	// zero before that, and if a TLS session was resumed.
	server keys.Pin
}

// Close closes the connection and leaves the lobby.
func (v *visitor) Close() error {
	v.lobby.leave(v)
	return v.wire.Close()
}

// lobby bounds how many connections there are that have not been admitted.
// When there is no room the oldest has to go: a genuine client is admitted
// within a few round trips, so it is those who linger that are shown out,
// however many come.
type lobby struct {
	limit int

	mu      sync.Mutex
	closed  bool
	waiting list.List // of *visitor, the oldest first
	all     map[*visitor]struct{}
}

// enter takes in a new connection. It closes the oldest if there are too many,
// and the new one itself if the lobby is closed.
func (l *lobby) enter(c net.Conn) *visitor {
	v := &visitor{wire: wire{Conn: c}, lobby: l}
	l.mu.Lock()
	var out *visitor
	if l.closed {
		out = v
	} else if l.waiting.Len() >= l.limit {
		out = l.waiting.Front().Value.(*visitor)
		l.forget(out)
	}
	v.place = l.waiting.PushBack(v)
	l.all[v] = struct{}{}
	l.mu.Unlock()
	if out != nil {
		_ = out.Close() // an error means that it went by itself
	}
	return v
}

// admit takes a connection off the count.
func (l *lobby) admit(v *visitor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(v)
}

func (l *lobby) leave(v *visitor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(v)
	delete(l.all, v)
}

// forget takes v out of waiting. The caller holds mu.
func (l *lobby) forget(v *visitor) {
	if v.place != nil {
		l.waiting.Remove(v.place)
		v.place = nil
	}
}

// close closes those who have not been admitted, now and from now on.
func (l *lobby) close() {
	l.closeThose(func(v *visitor) bool { return v.place != nil })
}

// closeAll closes everybody, now, and whoever comes from now on.
func (l *lobby) closeAll() {
	l.closeThose(func(*visitor) bool { return true })
}

func (l *lobby) closeThose(chosen func(*visitor) bool) {
	l.mu.Lock()
	l.closed = true
	var out []*visitor
	for v := range l.all {
		if chosen(v) {
			out = append(out, v)
		}
	}
	l.mu.Unlock()
	for _, v := range out {
		_ = v.Close() // an error means that it went by itself
	}
}
