package socks

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// encode6 gives the bytes of a message that can be encoded.
func encode6(t testing.TB, q Request6) string {
	t.Helper()
	b, err := q.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// login6 is the option with fred's password.
var login6 = []AuthData6{{Method: 2, Data: []byte("\x01\x04fred\x06secret")}}

// ask6 makes a request at a door, and gives the answers: the operation reply's code is
// NotAllowed if there is none.
func ask6(t testing.TB, door string, q Request6) (AuthReply6, OperationReply6) {
	t.Helper()
	c := dial(t, door)
	defer c.Close()
	send(t, c, encode6(t, q))
	p, err := ReadAuthReply6(c)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	if !p.OK {
		expectEnd(t, c)
		return p, OperationReply6{Code: NotAllowed}
	}
	op, err := ReadOperationReply6(c)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return p, op
}

func connect6(o Options6) Request6 {
	return Request6{Command: Connect, Dst: Addr{Name: "example.com", Port: 80}, Options: o}
}

func passwordDoor(r Relay) *Door {
	return &Door{Relay: r, Admission: Admission{Authenticate: Password("fred", "secret")}}
}

// took notes what a relay is asked for, and refuses.
func took() *recorder { return &recorder{fails: ConnectionRefused} }

func TestSocks6SessionsSpareTheLogin(t *testing.T) {
	r := took()
	door := openDoor(t, passwordDoor(r))
	first, _ := ask6(t, door, connect6(Options6{Auth: login6, SessionRequest: true}))
	id := first.Options.SessionID
	if len(id) < 8 {
		t.Fatalf("the session's id is %x", id)
	}
	p, op := ask6(t, door, connect6(Options6{SessionID: id}))
	if !p.OK || !p.Options.SessionOK || op.Code != ConnectionRefused {
		t.Errorf("in the session: %+v, %+v", p, op)
	}
	for _, q := range r.requests() {
		if q.User != "fred" {
			t.Errorf("the door asks for %+v", q)
		}
	}

	end := Options6{SessionID: id, SessionTeardown: true}
	if p, _ := ask6(t, door, connect6(end)); p.OK {
		t.Error("who ends a session is in it")
	}
	if p, _ := ask6(t, door, connect6(Options6{SessionID: id})); !p.OK {
		t.Error("a session was ended by who knew no password")
	}
	end.Auth = login6
	if p, _ := ask6(t, door, connect6(end)); !p.OK {
		t.Error("fred may not come in to end his session")
	}
	if p, _ := ask6(t, door, connect6(Options6{SessionID: id})); p.OK || !p.Options.SessionInvalid {
		t.Errorf("after the end: %+v", p)
	}
}

func TestSocks6LoginsHaveAUserAndAPassword(t *testing.T) {
	door := openDoor(t, &Door{Relay: took()}) // where any would do
	for data, want := range map[string]bool{
		"\x01\x01x\x01y": true,
		"\x01\x00\x01y":  false, "\x01\x01x\x00": false, "\x01\x01x\x05y": false, "\x02\x01x\x01y": false, "\x01\x01x\x01yz": false,
	} {
		if p, _ := ask6(t, door, connect6(Options6{Auth: []AuthData6{{Method: 2, Data: []byte(data)}}})); p.OK != want {
			t.Errorf("%q: let in: %v, want %v", data, p.OK, want)
		}
	}
}

func TestSocks6SessionsAreNoBetterThanTheirMethod(t *testing.T) {
	const none, password = MethodNone, MethodPassword
	var mu sync.Mutex
	var methods []Method
	var user string
	d := passwordDoor(took())
	d.Admission.Methods = func(context.Context, netip.AddrPort) []Method {
		mu.Lock()
		defer mu.Unlock()
		return methods
	}
	d.Admission.Identify = func(context.Context, net.Conn) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		return user, nil
	}
	door := openDoor(t, d)
	set := func(who string, all ...Method) {
		mu.Lock()
		defer mu.Unlock()
		user, methods = who, all
	}
	set("", password)
	byPassword, _ := ask6(t, door, connect6(Options6{Auth: login6, SessionRequest: true}))
	set("gateway", none)
	byAddress, _ := ask6(t, door, connect6(Options6{SessionRequest: true}))
	for _, test := range []struct {
		user       string
		methods    []Method
		pass, none bool // which of the sessions goes on
	}{
		{"gateway", []Method{none, password}, true, true},
		{"", []Method{none, password}, true, false},
		{"other", []Method{none, password}, true, false},
		{"gateway", []Method{none}, false, true},
		{"gateway", []Method{password}, true, false},
		{"gateway", nil, false, false},
	} {
		set(test.user, test.methods...)
		for id, want := range map[string]bool{string(byPassword.Options.SessionID): test.pass, string(byAddress.Options.SessionID): test.none} {
			if p, _ := ask6(t, door, connect6(Options6{SessionID: []byte(id)})); p.OK != want || p.Options.SessionInvalid == want {
				t.Errorf("%q, %v: a session goes on: %v, want %v", test.user, test.methods, p.OK, want)
			}
		}
	}
}

func TestSocks6TakesNoTickets(t *testing.T) {
	d := passwordDoor(took())
	d.Admission.GSSAPI = func(context.Context, netip.AddrPort, []byte) (GSSGrant, error) {
		t.Error("a ticket is looked at")
		return GSSGrant{}, errLogin
	}
	door := openDoor(t, d)
	ticket, err := TokenLogin6([]byte("a ticket"))
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := ask6(t, door, connect6(Options6{Auth: []AuthData6{ticket}})); p.OK || p.Options.Selected != nil {
		t.Errorf("with the request: %+v", p)
	}
	offer := &MethodOffer6{Methods: []byte{byte(MethodGSSAPI)}}
	p, _ := ask6(t, door, connect6(Options6{Offer: offer, Auth: []AuthData6{ticket}}))
	if p.OK || p.Options.Selected == nil || *p.Options.Selected != byte(noMethod) {
		t.Errorf("offered: %+v", p)
	}
	// The password is the one that counts.
	if p, op := ask6(t, door, connect6(Options6{Offer: offer, Auth: append(login6[:1:1], ticket)})); !p.OK || op.Code != ConnectionRefused {
		t.Errorf("beside a password: %+v, %+v", p, op)
	}
}

func TestSocks6SessionsEndAndAreForOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guest{user: "fred", source: netip.MustParseAddrPort("192.0.2.1:1000")}
		home := g.source.Addr()
		var s sessions6
		id := s.begin(g)
		if _, _, ok := s.user(id, netip.MustParseAddr("192.0.2.2")); ok {
			t.Error("a session is good from another address")
		}
		s.end(id, &guest{user: "eve", source: g.source})
		for range 6 {
			time.Sleep(sessionIdle6)
			if user, _, ok := s.user(id, home); !ok || user != "fred" {
				t.Errorf("used in time, and not good: %q", user)
			}
		}
		time.Sleep(time.Second)
		if _, _, ok := s.user(id, home); ok {
			t.Error("a session is good for ever")
		}
		id = s.begin(g)
		time.Sleep(sessionIdle6 + 1)
		if _, _, ok := s.user(id, home); ok {
			t.Error("a session that nobody used is good")
		}
	})
}

func TestSocks6SessionsHaveALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions6
		g := &guest{user: "fred"}
		first, second := s.begin(g), s.begin(g)
		for range 2 * maxSessions6 {
			time.Sleep(time.Millisecond)
			s.user(first, netip.Addr{})
			s.begin(g)
		}
		if len(s.byID) != maxSessions6 {
			t.Errorf("there are %d sessions", len(s.byID))
		}
		if _, _, ok := s.user(first, netip.Addr{}); !ok {
			t.Error("the session that was used all the time had to go")
		}
		if _, _, ok := s.user(second, netip.Addr{}); ok {
			t.Error("the session that was never used could stay")
		}
	})
}

func TestSocks6TokensAreGoodOnce(t *testing.T) {
	r := took()
	door := openDoor(t, passwordDoor(r))
	first, _ := ask6(t, door, connect6(Options6{Auth: login6, SessionRequest: true, WindowRequest: 100}))
	id, w := first.Options.SessionID, first.Options.Window
	if w == nil || w.Size != 64 {
		t.Fatalf("the window is %+v", w)
	}
	spend := func(token uint32) AuthReply6 {
		p, _ := ask6(t, door, connect6(Options6{SessionID: id, Token: &token}))
		return p
	}
	if p := spend(w.Base + 1); !p.OK || !p.Options.TokenAccepted || *p.Options.Window != *w {
		t.Errorf("a good token: %+v", p)
	}
	asked := len(r.requests())
	for _, token := range []uint32{w.Base + 1, w.Base - 1, w.Base + w.Size, w.Base + math.MaxUint32/2} {
		if p := spend(token); p.OK || !p.Options.TokenRejected {
			t.Errorf("token %d: %+v", token, p)
		}
	}
	if len(r.requests()) != asked {
		t.Error("a request was carried out whose token was not good")
	}
	if p := spend(w.Base); p.Options.Window == nil || p.Options.Window.Base != w.Base+2 {
		t.Errorf("the lowest token: %+v", p)
	}
	// No window, and no token to spend.
	first, _ = ask6(t, door, connect6(Options6{Auth: login6, SessionRequest: true}))
	id = first.Options.SessionID
	if p := spend(0); p.OK || !p.Options.TokenRejected {
		t.Errorf("a token without a window: %+v", p)
	}
	if p, _ := ask6(t, door, connect6(Options6{SessionID: id, WindowRequest: 1 << 30})); p.Options.Window == nil || p.Options.Window.Size != maxTokens6 {
		t.Errorf("a window for a session that has none: %+v", p)
	}
}

func TestSocks6TokensGoOnThoughSomeAreLost(t *testing.T) {
	for _, wanted := range []uint32{1, 2, 3, 4, 5, 8, 1000, math.MaxInt32} {
		w := newTokens6(wanted)
		size := uint32(len(w.spent))
		if size > wanted || size > maxTokens6 {
			t.Errorf("%d tokens for %d", size, wanted)
		}
		w.base = math.MaxUint32 - 2*size // wraps soon
		spent := make(map[uint32]bool)
		for i := range 8 * size {
			// Of each two the first is lost, but where there is one only.
			token := w.base + i%size
			if fresh := token-w.base < size && !spent[token]; w.spend(token) != fresh {
				t.Fatalf("window of %d: token %d of base %d: want %v", size, token, w.base, fresh)
			}
			spent[token] = true
		}
		highest := w.base + size - 1
		if spent[highest] || !w.spend(highest) {
			t.Errorf("window of %d: nothing can be spent any more", size)
		}
	}
}

func TestSocks6InitialDataGoesAlongWithTheRequest(t *testing.T) {
	p := newPatient()
	door := openDoor(t, passwordDoor(p))
	c := dial(t, door)
	data := strings.Repeat("x", MaxInitialData6)
	q := connect6(Options6{Auth: login6, Offer: &MethodOffer6{InitialData: MaxInitialData6}})
	send(t, c, encode6(t, q)+data+"more")
	if r := receive(t, p.asked); string(r.Initial) != data || r.User != "fred" {
		t.Errorf("the relay gets %d bytes of %q's", len(r.Initial), r.User)
	}
	near, far := newDuplex()
	p.connect <- near
	defer far.Close()
	expect(t, far, "more")
}

func TestSocks6ReportsWhatTheRelayDid(t *testing.T) {
	done := []StackOption6{{TargetLeg6, StackTTL6, 9}, {ClientLeg6, StackTTL6, 1}}
	r := &stackRelay{reply: Reply{Stack: done}}
	door := openDoor(t, &Door{Relay: r, Admission: Admission{Anyone: true}})
	wanted := []StackOption6{
		{BothLegs6, StackTOS6, 0xb8}, {TargetLeg6, StackTTL6, 64}, {ClientLeg6, StackTTL6, 33},
		{ClientLeg6, StackNoFragmentation6, StackOn6}, {TargetLeg6, StackMultipath6, StackOn6},
	}
	_, op := ask6(t, door, connect6(Options6{Stack: wanted}))
	if want := []StackOption6{{TargetLeg6, StackTOS6, 0xb8}, wanted[1], wanted[4]}; !reflect.DeepEqual(r.asked.Stack, want) {
		t.Errorf("the relay is asked for %v, want %v", r.asked.Stack, want)
	}
	want := []StackOption6{done[0], {ClientLeg6, StackTOS6, 0xb8}, {ClientLeg6, StackTTL6, 33}}
	if !reflect.DeepEqual(op.Options.Stack, want) {
		t.Errorf("the app is told of %v, want %v", op.Options.Stack, want)
	}
}

// stackRelay connects to a target that has nothing to say.
type stackRelay struct {
	recorder
	reply Reply
	asked Request
}

func (r *stackRelay) Connect(ctx context.Context, q Request) (c relay.Conn, _ Reply, err error) {
	r.asked = q
	c, _, err = r.recorder.Connect(ctx, q)
	return c, r.reply, err
}

func TestMethodsAreWhatThePolicySays(t *testing.T) {
	const none, password = MethodNone, MethodPassword
	only := func(m ...Method) func(context.Context, netip.AddrPort) []Method {
		return func(context.Context, netip.AddrPort) []Method { return m }
	}
	yes := Password("fred", "secret")
	for _, test := range []struct {
		name    string
		admits  Admission
		offered string
		want    byte
	}{
		{"default", Admission{}, "\x00\x02", 0},
		{"default, password", Admission{Authenticate: yes}, "\x00\x02", 2},
		{"order of the door", Admission{Methods: only(password, none)}, "\x00\x02", 2},
		{"order of the door", Admission{Methods: only(none, password)}, "\x02\x00", 0},
		{"nothing", Admission{Methods: only()}, "\x00\x02", 0xff},
		{"no password", Admission{Authenticate: yes, Methods: only(none)}, "\x00\x02", 0xff},
		{"a password that nobody knows", Admission{Methods: only(password)}, "\x00\x02", 0xff},
		{"not offered", Admission{Methods: only(none)}, "\x02", 0xff},
	} {
		d := &Door{Relay: &recorder{}, Admission: test.admits}
		app := newScript([]byte("\x05" + string([]byte{byte(len(test.offered))}) + test.offered))
		app.end()
		if o := run(t, d, app); !strings.HasPrefix(o.answers, "\x05"+string([]byte{test.want})) {
			t.Errorf("%s: %x, want %#02x", test.name, o.answers, test.want)
		}
	}
}

func TestMethodsHoldForEveryDialect(t *testing.T) {
	for _, methods := range [][]Method{nil, {MethodPassword}} {
		d := &Door{Relay: &recorder{}}
		d.Admission.Methods = func(context.Context, netip.AddrPort) []Method { return methods }
		for _, v := range vectors(t, "socks4.txt", "socks5.txt", "socks6door.txt") {
			if o := run(t, d, newScript(v.sends)); o.asked != nil {
				t.Errorf("%s: the door asks for %s", v.name, o.describe())
			}
		}
		for _, sends := range httpScripts() {
			if o := run(t, d, newScript(sends)); o.asked != nil {
				t.Errorf("%q: the door asks for %s", sends, o.describe())
			}
		}
	}
}

func TestMethodsDependOnTheSource(t *testing.T) {
	d := passwordDoor(took())
	d.Admission.Methods = func(_ context.Context, source netip.AddrPort) []Method {
		if source.Addr() == netip.MustParseAddr("127.0.0.1") && source.Port() != 0 {
			return nil
		}
		return []Method{MethodPassword}
	}
	var log lines
	d.Log = slog.New(slog.NewTextHandler(&log, nil))
	c := dial(t, openDoor(t, d))
	send(t, c, "\x05\x02\x00\x02")
	expect(t, c, "\x05\xff")
	expectEnd(t, c)
	c.Close()
	for deadline := time.Now().Add(patience); !log.contain("WARN") && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if !log.contain("level=WARN") || !log.contain("[0 2]") {
		t.Error("nothing of it is in the log")
	}
}

// TestNoFieldOutOfRangeOpensADoor changes each byte of each vector.
func TestNoFieldOutOfRangeOpensADoor(t *testing.T) {
	closed := &Door{Relay: &recorder{}}
	closed.Admission.Authenticate = func(context.Context, netip.AddrPort, string, string) bool { return false }
	check := func(name string, b []byte) {
		if o := run(t, closed, newScript(b)); o.asked != nil {
			t.Errorf("%s: %x: the door asks for %s", name, b, o.describe())
		}
	}
	for _, v := range vectors(t, "socks4.txt", "socks5.txt", "socks6door.txt") {
		for i, was := range v.sends {
			check(v.name, v.sends[:i:i])
			for _, value := range []byte{0, 1, 2, 5, 6, 0x7f, 0x80, 0xff, was + 1, was - 1} {
				b := bytes.Clone(v.sends)
				b[i] = value
				check(v.name, b)
			}
		}
	}
}

func TestSocks6AsksForNothingBeforeItHasAllOfIt(t *testing.T) {
	for _, v := range vectors(t, "socks6door.txt") {
		whole := len(v.sends) - len(v.got)
		if size := 12 + int(binary.BigEndian.Uint16(v.sends[2:])); v.sends[7] == typeIPv4in6 && !v.password {
			whole = max(whole, size)
		}
		for n := range whole {
			if o := run(t, v.door(), newScript(v.sends[:n:n])); o.asked != nil {
				t.Errorf("%s: %d bytes are enough to ask for %s", v.name, n, o.describe())
			}
		}
	}
}

func TestSocks6ReadsNothingOfAStranger(t *testing.T) {
	app := newScript([]byte(encode6(t, connect6(Options6{Offer: &MethodOffer6{InitialData: 100}}))))
	app.remote = addr(t, "192.0.2.1:1234") // not on loopback
	o := run(t, &Door{Relay: &recorder{}}, app)
	p, err := ReadAuthReply6(strings.NewReader(o.answers))
	if err != nil || p.OK || p.Options.Selected == nil || *p.Options.Selected != 0xff {
		t.Errorf("answered by %x (%v)", o.answers, err)
	}
}
