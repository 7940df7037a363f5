package socks

import (
	"context"
	"fmt"
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

// stay is an app's current one. A nil stay is none.
type stay struct {
	Stay
	user  string
	left  chan struct{}
	watch sync.WaitGroup
}

// enterStay begins a stay for a guest, or goes on with the one that there is. An app
// that comes back as somebody else, as HTTP lets it, ends the one before.
func (a *app) enterStay(ctx context.Context, g *guest) error {
	if a.stay != nil && a.stay.user == g.user {
		g.relay = a.stay
		return nil
	}
	s, err := a.door.Enter(ctx, g.user, g.source)
	if err != nil {
		return fmt.Errorf("enter as %q: %w", g.user, err)
	}
	a.stay.end()
	a.stay = &stay{Stay: s, user: g.user, left: make(chan struct{})}
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
