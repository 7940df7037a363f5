package client_test

import (
	"bytes"
	"context"
	"encoding"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// lodge is a server where alice, whose device it is, and bob log in by password, and carol
// by token.
type lodge struct {
	t     *testing.T
	flows chan []byte // gets what each refers to
}

func (l *lodge) handle(_ context.Context, s *tunnel.Stream) {
	q, err := socks.ReadRequest6(s)
	switch {
	case err != nil: // the client has given it up
	case q.Command == socks.Noop:
		l.noop(s, q.Options)
	default:
		l.flows <- q.Options.AuthOf(socks.MethodLogin6)
		accept(s)
	}
}

var loginOfBob = bytes.Repeat([]byte{7}, socks.LoginID6)

func (l *lodge) noop(s *tunnel.Stream, o socks.Options6) {
	reference := socks.AuthData6{Method: byte(socks.MethodLogin6), Data: loginOfBob}
	answer := socks.AuthReply6{OK: true}
	switch {
	case o.Offer != nil:
		answer.Options.Selected = new(byte(0xff))
		for _, m := range []byte{2, 1} {
			if slices.Contains(o.Offer.Methods, m) {
				answer.Options.Selected = &m
				break
			}
		}
	case o.AuthOf(socks.MethodPassword) != nil:
		user, password, err := socks.ParsePasswordLogin6(o.AuthOf(socks.MethodPassword))
		answer.OK = err == nil && password == user+"'s"
		if answer.OK {
			answer.Options.Auth = []socks.AuthData6{{Method: byte(socks.MethodPassword), Data: []byte{1, 0}}}
		}
		if user == "bob" && answer.OK {
			answer.Options.Auth = append(answer.Options.Auth, reference)
		}
	default:
		token, err := socks.ParseTokenLogin6(o.AuthOf(socks.MethodGSSAPI))
		grant, err2 := socks.TokenGrant6{User: "carol", Reply: token, Context: []byte("key")}.Data()
		if err != nil || err2 != nil {
			l.t.Errorf("a token comes as %v, and a grant goes as %v", err, err2)
		}
		answer.Options.Auth = []socks.AuthData6{grant, reference}
	}
	var b []byte
	for _, m := range []encoding.BinaryAppender{answer, socks.OperationReply6{}} {
		var err error
		if b, err = m.AppendBinary(b); err != nil {
			l.t.Error(err)
		}
		if !answer.OK {
			break
		}
	}
	_, _ = s.Write(b) // the client may have gone
}

// as makes a request in somebody's name.
func as(user string) socks.Request {
	r := target
	r.User = user
	return r
}

func TestFlowsOfOthersReferToTheirLogin(t *testing.T) {
	l := &lodge{t: t, flows: make(chan []byte, 10)}
	h := newHub(t, l.handle)
	c := start(t, h, nil)
	if m, err := c.LoginMethods(t.Context()); err != nil || !slices.Equal(m, []socks.Method{socks.MethodPassword, socks.MethodGSSAPI}) {
		t.Errorf("methods are %v, %v", m, err)
	}
	for _, who := range []string{"alice", "bob"} {
		if err := c.LogIn(t.Context(), who, who+"'s"); err != nil {
			t.Fatal(err)
		}
		if err := c.LogIn(t.Context(), who, "another"); !errors.Is(err, client.ErrLogin) {
			t.Errorf("with another password %s gets %v", who, err)
		}
	}
	if err := c.LogIn(t.Context(), "alice", strings.Repeat("x", 300)); err == nil {
		t.Error("a password that is too long goes to the server")
	}
	grant, err := c.LogInByToken(t.Context(), []byte("ticket"))
	if err != nil || grant.User != "carol" || string(grant.Reply) != "ticket" || string(grant.Context) != "key" {
		t.Errorf("grant %+v, %v", grant, err)
	}
	for user, want := range map[string][]byte{"": nil, "alice": nil, "local": nil, "bob": loginOfBob, "carol": loginOfBob} {
		conn, _, err := c.Connect(t.Context(), as(user))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := receive(t, l.flows, "a flow"); !bytes.HasPrefix(got, want) || len(got) > 0 && want == nil {
			t.Errorf("a flow of %q refers to %x", user, got)
		}
	}
}

// A login belongs to its session. In the next one its user's flows must not pass as
// those of the device's.
func TestFlowsOfOthersAreRefusedInTheNextSession(t *testing.T) {
	l := &lodge{t: t, flows: make(chan []byte, 10)}
	h := newHub(t, l.handle)
	c := start(t, h, nil)
	if err := c.LogIn(t.Context(), "bob", "bob's"); err != nil {
		t.Fatal(err)
	}
	h.session(t).lose()
	h.session(t)
	until(t, func() bool { return c.Status().Connected })
	for range 3 {
		if _, _, err := c.Connect(t.Context(), as("bob")); socks.CodeOf(err) != socks.NotAllowed {
			t.Errorf("without his login bob gets %v", err)
		}
	}
	if len(l.flows) > 0 {
		t.Error("the server was asked")
	}
	if err := c.LogIn(t.Context(), "bob", "bob's"); err != nil {
		t.Fatal(err)
	}
	conn, _, err := c.Connect(t.Context(), as("bob"))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// A server that knows no logins drops the option, and says that all is well.
func TestPasswordThatTheServerHasNotLookedAtIsNotRight(t *testing.T) {
	h := newHub(t, func(_ context.Context, s *tunnel.Stream) {
		if _, err := socks.ReadRequest6(s); err == nil {
			accept(s)
		}
	})
	c := start(t, h, nil)
	if err := c.LogIn(t.Context(), "alice", "anything"); err == nil {
		t.Error("alice is logged in")
	}
	if _, err := c.LogInByToken(t.Context(), []byte("anything")); err == nil {
		t.Error("somebody is logged in by a token")
	}
}
