package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// Login says how apps at clients' doors prove here which users they are, and who may.
type Login struct {
	// Methods are offered in this order: socks.MethodGSSAPI and socks.MethodPassword.
	// Without any, nobody can log in.
	Methods []socks.Method

	// Accept verifies a Kerberos token, for socks.MethodGSSAPI.
	Accept func(token []byte) (Ticket, error)

	// Protection is what apps that come by ticket have to agree to with their door. NEC
	// lets them do so as the SOCKS library of NEC does.
	Protection socks.GSSProtection
	NEC        bool

	// OtherUsers lets an app log in as another user than the one whose device its
	// client runs on.
	OtherUsers bool
}

// Ticket is what comes of a token that is good.
type Ticket struct {
	Principal string // such as alice@EXAMPLE.ORG
	Reply     []byte // for the app
	Context   []byte // for the client's door, to go on with; a secret
}

// maxLogins is as how many other users the apps of one session may be logged in.
const maxLogins = 64

var (
	errLoginMethod = errors.New("logins of this kind are not taken")
	errLoginOther  = errors.New("it is one as another user than the device's")
	errLoginMany   = errors.New("the session has too many logins")
)

// login answers a NOOP, by which a client logs an app in or asks how it could.
func (l *lane) login(ctx context.Context, stream *tunnel.Stream, o socks.Options6) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	options, err := l.judgeLogin(ctx, o)
	answer := []encoding.BinaryAppender{socks.AuthReply6{OK: err == nil, Options: options}, operation(socks.Reply{})}
	if err != nil {
		level := slog.LevelDebug
		if l.logins.warn.Allows() {
			level = slog.LevelWarn
		}
		l.log.Log(ctx, level, "login refused", "error", err)
		answer = answer[:1]
	}
	if err := send(stream, answer...); err != nil {
		stream.Reset()
	}
}

func (l *lane) judgeLogin(ctx context.Context, o socks.Options6) (socks.Options6, error) {
	password, token := o.AuthOf(socks.MethodPassword), o.AuthOf(socks.MethodGSSAPI)
	var user string
	var proof socks.AuthData6
	var err error
	switch {
	case password != nil:
		user, proof, err = l.checkPassword(ctx, password)
	case token != nil:
		user, proof, err = l.checkToken(ctx, token)
	case o.Offer != nil:
		return socks.Options6{Selected: new(byte(l.server.cfg.Login.choose(o.Offer.Methods)))}, nil
	default:
		return socks.Options6{}, nil // it is no more than a NOOP
	}
	by := socks.MethodGSSAPI
	if password != nil {
		by = socks.MethodPassword
	}
	l.attempted(user, by, err)
	if err != nil {
		return socks.Options6{}, err
	}
	say := socks.Options6{Auth: []socks.AuthData6{proof}}
	if user != l.user.Name {
		id, err := l.logins.add(ctx, l.session, login{user, socks.Method(proof.Method)})
		if err != nil {
			return socks.Options6{}, err
		}
		say.Auth = append(say.Auth, socks.AuthData6{Method: byte(socks.MethodLogin6), Data: id})
	}
	return say, nil
}

// attempted leaves a record of an app's login.
func (l *lane) attempted(user string, by socks.Method, err error) {
	o := originOf(l.who())
	l.origin(&o)
	o.User, o.Groups, o.Method = user, "", MethodWord(by)
	l.server.attempted(o, l.last().Remote, err)
}

// choose gives the best of the methods that are offered, or 255.
func (g Login) choose(offered []byte) socks.Method {
	for _, m := range g.Methods {
		if slices.Contains(offered, byte(m)) {
			return m
		}
	}
	return 0xff
}

// allowsLogin tells whether somebody may log in by a method, if he proves who he is.
func (l *lane) allowsLogin(m socks.Method) error {
	if !slices.Contains(l.server.cfg.Login.Methods, m) {
		return errLoginMethod
	}
	return nil
}

// allowsUser tells whether an app may log in as a user on this device.
func (l *lane) allowsUser(user string) error {
	if user != l.user.Name && !l.server.cfg.Login.OtherUsers {
		return errLoginOther
	}
	return nil
}

func (l *lane) checkPassword(ctx context.Context, data []byte) (user string, proof socks.AuthData6, err error) {
	user, password, err := socks.ParsePasswordLogin6(data)
	if err == nil {
		err = l.allowsLogin(socks.MethodPassword)
	}
	if err == nil {
		// Before the password is looked at: on somebody's device nobody tries those of others.
		err = l.allowsUser(user)
	}
	var u users.User
	if err == nil {
		u, err = l.server.cfg.Users.CheckPassword(ctx, user, password, l.last().Remote.Addr())
	}
	return cmp.Or(u.Name, user), socks.AuthData6{Method: byte(socks.MethodPassword), Data: []byte{1, 0}}, err
}

func (l *lane) checkToken(ctx context.Context, data []byte) (user string, proof socks.AuthData6, err error) {
	token, err := socks.ParseTokenLogin6(data)
	if err == nil {
		err = l.allowsLogin(socks.MethodGSSAPI)
	}
	if err != nil {
		return "", proof, err
	}
	cfg := l.server.cfg.Login
	ticket, err := cfg.Accept(token)
	if err != nil {
		return "", proof, err
	}
	u, err := l.server.cfg.Users.UserByPrincipal(ctx, ticket.Principal)
	if err == nil && u.Disabled {
		err = users.ErrUserDisabled
	}
	if err == nil {
		err = l.allowsUser(u.Name)
	}
	if err != nil {
		return "", proof, err
	}
	grant := socks.TokenGrant6{User: u.Name, Protection: cfg.Protection, NEC: cfg.NEC, Reply: ticket.Reply, Context: ticket.Context}
	proof, err = grant.Data()
	return u.Name, proof, err
}

// callerFor gives on whose behalf a request is made: the device's user, or another one
// as whom an app has logged in. It is nil if there is no such login.
func (l *lane) callerFor(o socks.Options6) *caller {
	id := o.AuthOf(socks.MethodLogin6)
	if id == nil {
		return l.caller
	}
	return l.logins.find(id)
}

// logins are those of a session's apps as other users than the device's. The lanes
// share them. Each user has one for each method, however many apps there are.
type logins struct {
	mu     sync.Mutex
	byUser map[login]*loggedIn
	over   bool

	warn socks.Pace
}

// login is who somebody has proved to be, and by what.
type login struct {
	user string
	by   socks.Method
}

type loggedIn struct {
	id    [socks.LoginID6]byte
	visit *Visit
}

// ended tells whether the user may not be here any more.
func (g *loggedIn) ended() bool {
	select {
	case <-g.visit.Done():
		return true
	default:
		return false
	}
}

// add gives the id of a user's login.
func (g *logins) add(ctx context.Context, s *session, as login) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.byUser[as]; known != nil && !known.ended() {
		return known.id[:], nil
	}
	for name, known := range g.byUser {
		if known.ended() {
			delete(g.byUser, name)
		}
	}
	if g.over || len(g.byUser) >= maxLogins {
		return nil, errLoginMany
	}
	came := func() policy.Who {
		w := s.path()
		w.Door, w.Device, w.Method = "session", s.device.Name, MethodWord(as.by)
		return w
	}
	visit, err := s.server.Visit(ctx, Visitor{User: as.user, Came: came, Session: s.name()})
	if err != nil {
		return nil, fmt.Errorf("log in as %s: %w", as.user, err)
	}
	visit.way = s
	fresh := &loggedIn{visit: visit}
	rand.Read(fresh.id[:]) // never fails
	if g.byUser == nil {
		g.byUser = make(map[login]*loggedIn)
	}
	g.byUser[as] = fresh
	return fresh.id[:], nil
}

// visits gives those of this moment.
func (g *logins) visits() (all []*Visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, known := range g.byUser {
		all = append(all, known.visit)
	}
	return all
}

// MethodWord is what rules call a method by which apps log in, or "".
func MethodWord(m socks.Method) string {
	switch m {
	case socks.MethodGSSAPI:
		return "gssapi"
	case socks.MethodPassword:
		return "password"
	}
	return ""
}

func (g *logins) find(id []byte) *caller {
	if len(id) < socks.LoginID6 || len(id) > socks.LoginID6+3 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, known := range g.byUser {
		if known.id == [socks.LoginID6]byte(id) {
			return known.visit.caller
		}
	}
	return nil
}

// end ends all logins, and lets no more begin.
func (g *logins) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	for _, known := range g.byUser {
		known.visit.Close()
	}
}
