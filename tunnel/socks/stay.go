package socks

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Stay is the time that an app spends at a [Door] as a user. It is the relay that
// carries out the app's requests.
type Stay interface {
	Relay

	// Done is closed when the user may not be here any more, which ends the app's
	// connection.
	Done() <-chan struct{}

	// Close tells that the app has gone.
	Close()
}

// Entry is how an app has been let in at a [Door].
type Entry struct {
	User   string // who has no name if nobody asks for one
	By     Method // by which the app has proved to be his; MethodNone: by none of SOCKS or HTTP
	Source netip.AddrPort
	Local  netip.AddrPort       // where the app has come in; not valid at a Unix socket
	TLS    *tls.ConnectionState // nil where the app speaks none
	Conn   net.Conn             // the app's as the listener gave it, for its socket's sake alone

	// GSS gives the level of protection that the app has agreed on with its ticket, which
	// stands fast before the app asks for anything. It is safe for concurrent use.
	GSS func() GSSLevel
}

// stay is an app's current one. A nil stay is none.
type stay struct {
	Stay
	user  string
	by    Method
	left  chan struct{}
	watch sync.WaitGroup
}

// enterStay begins a stay for a guest, or goes on with the one that there is. An app
// that comes back as somebody else, as HTTP lets it, ends the one before.
func (a *app) enterStay(ctx context.Context, g *guest) error {
	if a.stay != nil && a.stay.user == g.user && a.stay.by == g.by {
		g.relay = a.stay
		return nil
	}
	level := a.level
	e := Entry{User: g.user, By: g.by, Source: g.source, Conn: a.came, GSS: func() GSSLevel { return GSSLevel(level.Load()) }}
	if t, ok := a.conn.LocalAddr().(*net.TCPAddr); ok {
		e.Local = unmapped(t.AddrPort())
	}
	if t, ok := a.conn.(tlsConn); ok {
		state := t.ConnectionState()
		e.TLS = &state
	}
	s, err := a.door.Enter(ctx, e)
	if err != nil {
		return fmt.Errorf("enter as %q: %w", g.user, err)
	}
	a.stay.end()
	a.stay = &stay{Stay: s, user: g.user, by: g.by, left: make(chan struct{})}
	conn, left := a.conn, a.stay.left
	a.stay.watch.Go(func() {
		select {
		case <-s.Done():
			conn.Reset()
		case <-left:
		}
	})
	g.relay = s
	return nil
}

func (s *stay) end() {
	if s == nil {
		return
	}
	close(s.left)
	s.Stay.Close()
	s.watch.Wait()
}
