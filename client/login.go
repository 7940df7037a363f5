package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/adit-net/adit/tunnel/socks"
)

// maxLogins is how many users may have logged in through one client.
const maxLogins = 1024

var (
	// ErrLogin says that the server does not let an app log in. It tells nobody why.
	ErrLogin = errors.New("the server refuses the login")

	errLogins     = errors.New("too many users have logged in")
	errUnverified = errors.New("the server does not say that it has looked at the password")
)

// logins are the users as whom apps have logged in at the server. Whoever is not the
// device's user needs a reference to his login with each request, which is the
// session's.
type logins struct {
	mu     sync.Mutex
	others map[string]bool // by user: whether he is another one than the device's
}

// note keeps what the server has said of a user.
func (g *logins) note(user string, other bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.others[user]; !known && len(g.others) >= maxLogins {
		return errLogins
	}
	if g.others == nil {
		g.others = make(map[string]bool)
	}
	g.others[user] = other
	return nil
}

func (g *logins) other(user string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.others[user]
}

// LoginMethods asks the server how apps can log in there: by socks.MethodGSSAPI,
// socks.MethodPassword, both or none, in the server's order.
func (c *Client) LoginMethods(ctx context.Context) (all []socks.Method, err error) {
	left := []byte{byte(socks.MethodGSSAPI), byte(socks.MethodPassword)}
	for len(left) > 0 {
		o := socks.Options6{Offer: &socks.MethodOffer6{Methods: slices.Clone(left)}}
		g, err := c.noop(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("ask for login methods: %w", err)
		}
		chosen := g.auth.Selected
		if chosen == nil || !slices.Contains(left, *chosen) {
			break
		}
		all = append(all, socks.Method(*chosen))
		left = slices.DeleteFunc(left, func(m byte) bool { return m == *chosen })
	}
	return all, nil
}

// LogIn lets the server verify a user's password. From then on [socks.Request.User] may
// be that user. A refusal is [ErrLogin].
func (c *Client) LogIn(ctx context.Context, user, password string) error {
	if err := c.logInByPassword(ctx, user, password); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	return nil
}

func (c *Client) logInByPassword(ctx context.Context, user, password string) error {
	data, err := socks.PasswordLogin6(user, password)
	if err != nil {
		return err
	}
	g, err := c.logIn(ctx, data)
	switch {
	case err != nil:
		return err
	case !bytes.HasPrefix(g.auth.AuthOf(socks.MethodPassword), []byte{1, 0}): // the success of RFC 1929
		return errUnverified
	}
	return c.loggedIn(user, g)
}

// LogInByToken lets the server verify a GSS-API token, and gives what it has made of it.
// From then on [socks.Request.User] may be the user that it names. A refusal is
// [ErrLogin].
func (c *Client) LogInByToken(ctx context.Context, token []byte) (socks.TokenGrant6, error) {
	grant, err := c.logInByToken(ctx, token)
	if err != nil {
		return socks.TokenGrant6{}, fmt.Errorf("log in: %w", err)
	}
	return grant, nil
}

func (c *Client) logInByToken(ctx context.Context, token []byte) (grant socks.TokenGrant6, err error) {
	data, err := socks.TokenLogin6(token)
	if err != nil {
		return grant, err
	}
	g, err := c.logIn(ctx, data)
	if err == nil {
		grant, err = socks.ParseTokenGrant6(g.auth.AuthOf(socks.MethodGSSAPI))
	}
	if err == nil {
		err = c.loggedIn(grant.User, g)
	}
	return grant, err
}

func (c *Client) logIn(ctx context.Context, data socks.AuthData6) (*granted, error) {
	g, err := c.noop(ctx, socks.Options6{Auth: []socks.AuthData6{data}})
	if errors.Is(err, socks.NotAllowed) {
		err = ErrLogin
	}
	return g, err
}

// noop makes a request that asks for no flow.
func (c *Client) noop(ctx context.Context, o socks.Options6) (*granted, error) {
	g, err := c.request(ctx, "", &socks.Request6{Command: socks.Noop, Options: o})
	if err == nil {
		g.stream.Close()
	}
	return g, err
}

// loggedIn notes a login that was good.
func (c *Client) loggedIn(user string, g *granted) error {
	id := g.auth.AuthOf(socks.MethodLogin6)
	if err := c.logins.note(user, id != nil); err != nil {
		return err
	}
	if id == nil {
		return nil
	}
	if len(id) < socks.LoginID6 {
		return errors.New("the server refers to a login in another way")
	}
	g.lane.session.noteLogin(user, id[:socks.LoginID6])
	return nil
}

func (s *session) noteLogin(user string, id []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logins == nil {
		s.logins = make(map[string][]byte)
	}
	s.logins[user] = id // of at most maxLogins users
}

// errLoggedOut is what becomes of a login when its session is over.
var errLoggedOut = &socks.Error{Code: socks.NotAllowed, Err: errors.New("the user's login was in a session that is over")}

// loginOf gives what a request has to say of its user in a session.
func (c *Client) loginOf(user string, s *session) ([]socks.AuthData6, error) {
	if user == "" || !c.logins.other(user) {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.logins[user]
	if id == nil {
		return nil, errLoggedOut
	}
	return []socks.AuthData6{{Method: byte(socks.MethodLogin6), Data: id}}, nil
}
