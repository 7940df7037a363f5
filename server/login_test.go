package server

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// asks makes a request with options, and gives both replies.
func (g *guest) asks(command socks.Command, dst socks.Addr, o socks.Options6) (*tunnel.Stream, socks.AuthReply6, socks.Code) {
	g.t.Helper()
	stream, err := g.Open(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	stream.SetDeadline(time.Now().Add(patience))
	b, err := socks.Request6{Command: command, Dst: dst, Options: o}.AppendBinary(nil)
	if err != nil {
		g.t.Fatal(err)
	}
	_, _ = stream.Write(b)
	auth, err := socks.ReadAuthReply6(stream)
	if err != nil {
		g.t.Fatal(err)
	}
	if !auth.OK {
		if b, err := io.ReadAll(stream); len(b) > 0 || err != nil {
			g.t.Errorf("behind a refusal comes %x, %v", b, err)
		}
		return stream, auth, socks.NotAllowed
	}
	reply, err := socks.ReadOperationReply6(stream)
	if err != nil {
		g.t.Fatal(err)
	}
	return stream, auth, reply.Code
}

// logIn logs an app in by password, and gives what its requests are to have.
func (g *guest) logIn(user, password string) (o socks.Options6, ok bool) {
	g.t.Helper()
	data, err := socks.PasswordLogin6(user, password)
	if err != nil {
		g.t.Fatal(err)
	}
	_, auth, _ := g.asks(socks.Noop, socks.Addr{}, socks.Options6{Auth: []socks.AuthData6{data}})
	if id := auth.Options.AuthOf(socks.MethodLogin6); id != nil {
		o.Auth = []socks.AuthData6{{Method: byte(socks.MethodLogin6), Data: id[:socks.LoginID6]}}
	}
	return o, auth.OK
}

// newInn is a house in which anna and bob have passwords.
func newInn(t *testing.T, login Login) *house {
	t.Helper()
	h := newHouse(t, func(c *Config) { c.Login = login })
	h.must(h.store.SetPassword(t.Context(), "anna", "anna's password"))
	h.must(h.store.SetPassword(t.Context(), "bob", "bob's password"))
	return h
}

var byPassword = []socks.Method{socks.MethodPassword}

func TestAppsOfTheDevicesUserLogIn(t *testing.T) {
	h := newInn(t, Login{Methods: byPassword})
	g := h.attach(h.device("anna"))
	if o, ok := g.logIn("anna", "anna's password"); !ok || o.Auth != nil {
		t.Errorf("with the right password: %v, %v", o, ok)
	}
	for _, c := range [][2]string{{"anna", "bob's password"}, {"bob", "bob's password"}, {"dora", "bob's password"}} {
		if _, ok := g.logIn(c[0], c[1]); ok {
			t.Errorf("%q is let in", c)
		}
	}
	for deadline := time.Now().Add(patience); len(h.log.find(t, "login refused")) < 3 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if text := h.log.String(); !strings.Contains(text, errLoginOther.Error()) || strings.Contains(text, "bob's password") {
		t.Errorf("the log says\n%s", text)
	}
}

func TestRefusedLoginsAreNoFloodInTheLog(t *testing.T) {
	const logins, burst = 200, 16
	h := newInn(t, Login{Methods: byPassword})
	g := h.attach(h.device("anna"))
	began := time.Now()
	for range logins {
		if _, ok := g.logIn("bob", "bob's password"); ok {
			t.Fatal("bob is let in")
		}
	}
	most := burst + 1 + int(time.Since(began)/time.Second)
	if n := len(h.log.find(t, "login refused")); n < burst || n > most {
		t.Errorf("%d lines, want %d to %d", n, burst, most)
	}
}

func TestAppsLogInAsOthersWhereTheyMay(t *testing.T) {
	h := newInn(t, Login{Methods: byPassword, OtherUsers: true})
	g, other := h.attach(h.device("anna")), h.attach(h.device("anna"))
	bob, ok := g.logIn("bob", "bob's password")
	again, _ := g.logIn("bob", "bob's password")
	if !ok || bob.Auth == nil || string(again.Auth[0].Data) != string(bob.Auth[0].Data) {
		t.Fatalf("bob gets %v, and then %v", bob, again)
	}
	port := echoTarget(t)
	stream, _, code := g.asks(socks.Connect, onLoopback(port), bob)
	if code != socks.Succeeded {
		t.Fatal(code)
	}
	exchange(t, stream, "hello")
	if _, _, code := other.asks(socks.Connect, onLoopback(port), bob); code != socks.NotAllowed {
		t.Errorf("in another session: %v", code)
	}
	for _, id := range []string{strings.Repeat("x", socks.LoginID6), "xxx", strings.Repeat("x", 40)} {
		forged := socks.Options6{Auth: []socks.AuthData6{{Method: byte(socks.MethodLogin6), Data: []byte(id)}}}
		for _, command := range []socks.Command{socks.Connect, socks.Bind, socks.Associate} {
			if _, _, code := g.asks(command, onLoopback(port), forged); code != socks.NotAllowed {
				t.Errorf("with an id of %d bytes: %v", len(id), code)
			}
		}
	}
	h.must(h.store.SetUserDisabled(t.Context(), "bob", true))
	if _, err := stream.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the connection of a disabled user reads %v", err)
	}
	if _, _, code := g.asks(socks.Connect, onLoopback(port), bob); code != socks.NotAllowed {
		t.Errorf("after he was disabled: %v", code)
	}
	exchange(t, g.connect(port), "anna goes on")
	eventually(t, "a flow of bob's has ended", func() bool {
		return slices.ContainsFunc(h.log.find(t, "flow ended"), func(f map[string]any) bool { return f["user"] == "bob" })
	})
}

func TestLoginsEndWithTheirSession(t *testing.T) {
	h := newInn(t, Login{Methods: byPassword, OtherUsers: true})
	g := h.attach(h.device("anna"))
	if _, ok := g.logIn("bob", "bob's password"); !ok || len(h.allVisits()) != 1 {
		t.Fatalf("there are %d visits", len(h.allVisits()))
	}
	g.Close(0)
	receive(t, g.served, "the end of the session")
	for deadline := time.Now().Add(patience); len(h.allVisits()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("bob stays")
		}
	}
}

func TestTicketsAreVerifiedAtTheExit(t *testing.T) {
	h := newInn(t, Login{
		Methods: []socks.Method{socks.MethodGSSAPI, socks.MethodPassword}, Protection: socks.GSSSigned, NEC: true,
		Accept: func(token []byte) (Ticket, error) {
			if string(token) == "expired" {
				return Ticket{}, errors.New("ticket has expired")
			}
			return Ticket{Principal: string(token), Reply: []byte("reply"), Context: []byte("key")}, nil
		},
	})
	h.must(h.store.AddPrincipal(t.Context(), "anna", "anna@ADIT.TEST"))
	h.must(h.store.AddPrincipal(t.Context(), "bob", "bob@ADIT.TEST"))
	g := h.attach(h.device("anna"))
	for token, want := range map[string]bool{"anna@ADIT.TEST": true, "bob@ADIT.TEST": false, "dora@ADIT.TEST": false, "expired": false} {
		data, err := socks.TokenLogin6([]byte(token))
		h.must(err)
		_, auth, _ := g.asks(socks.Noop, socks.Addr{}, socks.Options6{Auth: []socks.AuthData6{data}})
		if auth.OK != want {
			t.Errorf("%s: %+v", token, auth)
		}
		if !want {
			continue
		}
		grant, err := socks.ParseTokenGrant6(auth.Options.AuthOf(socks.MethodGSSAPI))
		if err != nil || grant.User != "anna" || grant.Protection != socks.GSSSigned || !grant.NEC || string(grant.Reply) != "reply" || string(grant.Context) != "key" {
			t.Errorf("%+v, %v", grant, err)
		}
	}
	if strings.Contains(h.log.String(), `"key"`) {
		t.Error("a key is in the log")
	}
}

func TestExitSaysHowAppsCanLogIn(t *testing.T) {
	for _, test := range []struct {
		login   Login
		offered string
		want    byte
	}{
		{Login{}, "\x01\x02", 0xff},
		{Login{Methods: byPassword}, "\x01\x02", 2},
		{Login{Methods: []socks.Method{socks.MethodGSSAPI, socks.MethodPassword}}, "\x02\x01", 1},
		{Login{Methods: []socks.Method{socks.MethodGSSAPI, socks.MethodPassword}}, "\x02", 2},
		{Login{Methods: []socks.Method{socks.MethodGSSAPI}}, "\x02", 0xff},
	} {
		h := newInn(t, test.login)
		g := h.attach(h.device("anna"))
		_, auth, code := g.asks(socks.Noop, socks.Addr{}, socks.Options6{Offer: &socks.MethodOffer6{Methods: []byte(test.offered)}})
		if s := auth.Options.Selected; s == nil || *s != test.want || code != socks.Succeeded {
			t.Errorf("%v of %x: %+v, %v", test.login.Methods, test.offered, auth, code)
		}
		if test.login.Methods == nil {
			if _, ok := g.logIn("anna", "anna's password"); ok {
				t.Error("somebody logs in where nobody can")
			}
		}
	}
}

func TestRulesHoldForWhoHasLoggedInWhenTheSessionMoves(t *testing.T) {
	h := newInn(t, Login{Methods: byPassword, OtherUsers: true})
	h.SetPolicy(rules(t, "[[rule]]\nfrom = [\"192.0.2.7\"]\nthen = \"allow\"\n"))
	x := h.attachLanes(h.device("anna"), 2)
	bob, ok := x.lanes[0].logIn("bob", "bob's password")
	if !ok {
		t.Fatal("bob is not let in")
	}
	port := echoTarget(t)
	stream, _, code := x.lanes[0].asks(socks.Connect, onLoopback(port), bob)
	if code != socks.Succeeded {
		t.Fatal(code)
	}
	x.resume(1, "192.0.2.8:4712")
	h.status("lane that has moved", func(st Status) bool { return st.Resumes == 1 })
	exchange(t, stream, "its own lane has not moved")
	x.resume(0, "192.0.2.8:4712")
	wantBroken(t, stream)
	if _, _, code := x.lanes[0].asks(socks.Connect, onLoopback(port), bob); code != socks.NotAllowed {
		t.Errorf("from elsewhere: %v", code)
	}
}
