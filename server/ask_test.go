package server

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/socks"
)

// oracle is a decision point that a test can change. It allows what says finds nothing
// against.
type oracle struct {
	*httptest.Server
	mu     sync.Mutex
	says   func(q map[string]any) (answer string)
	asked  int
	absent bool
	missed int // questions while it was absent
}

const (
	yes = `{"decision": true}`
	no  = `{"decision": false, "context": {"reason": "because"}}`
)

func newOracle(t testing.TB) *oracle {
	o := &oracle{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var q map[string]any
		_ = json.Unmarshal(body, &q)
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.absent {
			o.missed++
			http.Error(w, "absent", http.StatusServiceUnavailable)
			return
		}
		o.asked++
		answer := yes
		if o.says != nil {
			answer = o.says(q)
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, answer)
	}))
	t.Cleanup(o.Close)
	return o
}

// change changes what the oracle does.
func (o *oracle) change(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

func (o *oracle) always(answer string) {
	o.change(func() { o.says = func(map[string]any) string { return answer } })
}

func (o *oracle) questions() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

func property(q map[string]any, name string) any {
	return q["resource"].(map[string]any)["properties"].(map[string]any)[name]
}

// askingHouse is a house with a decider.
func askingHouse(t *testing.T, cfg decide.Config, change func(*Config)) (*house, *oracle) {
	t.Helper()
	o := newOracle(t)
	d := decide.New(slog.New(slog.DiscardHandler))
	t.Cleanup(d.Close)
	cfg.URL, cfg.Name = o.URL, "oracle"
	if cfg.Timeout == 0 {
		cfg.Timeout = patience
	}
	d.Set(cfg)
	return newHouse(t, func(c *Config) {
		c.Decider = d
		if change != nil {
			change(c)
		}
	}), o
}

func TestDeciderIsAskedAboutWhatRulesAllow(t *testing.T) {
	port, other := echoTarget(t), echoTarget(t)
	h, o := askingHouse(t, decide.Config{}, func(c *Config) {
		c.Policy = rules(t, fmt.Sprintf("[[rule]]\nports = [\"%d\"]\nthen = \"allow\"\n", port))
	})
	g := h.attach(h.device("anna"))
	if _, code := g.request(socks.Connect, onLoopback(other)); code != socks.NotAllowed || o.questions() != 0 {
		t.Errorf("what rules deny: %v after %d questions", code, o.questions())
	}
	exchange(t, g.connect(port), "hello")
	o.always(no)
	exchange(t, g.connect(port), "hello")
	if n := o.questions(); n != 1 {
		t.Errorf("%d questions", n)
	}
	h.SetPolicy(nil)
	for _, at := range []uint16{port, other} {
		if _, code := g.request(socks.Connect, onLoopback(at)); code != socks.NotAllowed {
			t.Errorf("what the decider denies: %v", code)
		}
	}
}

func TestDeciderKnowsWhoAsksForWhat(t *testing.T) {
	h, o := askingHouse(t, decide.Config{}, func(c *Config) {
		c.Relay = &Exit{Allow: toLoopback, Resolver: &answers{addrs: addrs("127.0.0.1")}}
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob", Came: func() policy.Who {
		return policy.Who{Door: ":1080", Method: "password", Protection: []string{"tls"}}
	}})
	h.must(err)
	defer v.Close()
	var got []string
	o.change(func() {
		o.says = func(q map[string]any) string {
			delete(q, "context")
			b, _ := json.Marshal(q)
			got = append(got, string(b))
			return yes
		}
	})
	port := echoTarget(t)
	r := connectTo(t, "Some.Example.", port)
	r.Source, r.Dialect = netip.MustParseAddrPort("192.0.2.7:4711"), socks.SOCKS5
	conn, _, err := v.Connect(t.Context(), r)
	h.must(err)
	conn.Close()
	want := fmt.Sprintf(`{"action":{"name":"connect","properties":{"dialect":"socks5"}},`+
		`"resource":{"id":"some.example:%[1]d","properties":{"address":"127.0.0.1","name":"some.example","port":%[1]d},"type":"target"},`+
		`"subject":{"id":"bob","properties":{"door":":1080","from":"192.0.2.7","method":"password","protection":["tls"]},"type":"user"}}`, port)
	o.change(func() {
		if len(got) != 1 || got[0] != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestWithoutAnAnswerNothingIsAllowed(t *testing.T) {
	h, o := askingHouse(t, decide.Config{}, nil)
	o.change(func() { o.absent = true })
	g := h.attach(h.device("anna"))
	if _, code := g.request(socks.Connect, onLoopback(echoTarget(t))); code != socks.NotAllowed {
		t.Errorf("got %v", code)
	}
	h.cfg.Decider.Set(decide.Config{URL: o.URL, OnFailure: decide.Allow})
	exchange(t, g.connect(echoTarget(t)), "hello")
}

func TestFlowEndsWhenTheDeciderChangesItsMind(t *testing.T) {
	h, o := askingHouse(t, decide.Config{Cache: time.Second}, nil)
	stays, goes := echoTarget(t), echoTarget(t)
	g := h.attach(h.device("anna"))
	one, other := g.connect(stays), g.connect(goes)
	exchange(t, one, "hello")
	exchange(t, other, "hello")
	o.change(func() {
		o.says = func(q map[string]any) string {
			if property(q, "port") == float64(goes) {
				return no
			}
			return yes
		}
	})
	wantBroken(t, other)
	exchange(t, one, "still here")
}

func TestNewPolicyHasTheDeciderAskedAnew(t *testing.T) {
	h, o := askingHouse(t, decide.Config{Cache: time.Hour}, nil)
	conn := h.attach(h.device("anna")).connect(echoTarget(t))
	exchange(t, conn, "hello")
	o.always(no)
	h.SetPolicy(rules(t, "[[rule]]\nthen = \"allow\"\n"))
	wantBroken(t, conn)
}

func TestWhatIsOpenOutlivesAShortAbsenceOfTheDecider(t *testing.T) {
	h, o := askingHouse(t, decide.Config{Cache: time.Second, Keep: time.Hour}, nil)
	port := echoTarget(t)
	g := h.attach(h.device("anna"))
	conn := g.connect(port)
	exchange(t, conn, "hello")
	o.change(func() { o.absent = true })
	waitFor(t, func() (again bool) {
		o.change(func() { again = o.missed >= 2 })
		return again
	})
	exchange(t, conn, "still here")
	if _, code := g.request(socks.Connect, onLoopback(port)); code != socks.NotAllowed {
		t.Errorf("a new one: %v", code)
	}
	h.cfg.Decider.Set(decide.Config{URL: o.URL, Cache: time.Second, Keep: -1})
	h.SetPolicy(nil)
	wantBroken(t, conn)
}

func TestDeciderMayWantToKnowWhatIsSpoken(t *testing.T) {
	h, o := askingHouse(t, decide.Config{}, nil)
	o.change(func() {
		o.says = func(q map[string]any) string {
			switch property(q, "protocol") {
			case nil:
				return `{"decision": false, "context": {"needs": "protocol"}}`
			case "ssh":
				return yes
			}
			return no
		}
	})
	port := echoTarget(t)
	g := h.attach(h.device("anna"))
	exchange(t, g.connect(port), "SSH-2.0-OpenSSH_10.0\r\n")
	web := g.connect(port)
	_, err := web.Write([]byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"))
	h.must(err)
	wantBroken(t, web)
	// The connection that ends at once is complete all the same.
	short := g.connect(port)
	_, err = short.Write([]byte("SSH-2.0-x\r\n"))
	h.must(err)
	h.must(short.CloseWrite())
	short.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(short); err != nil || string(got) != "SSH-2.0-x\r\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

// What an app says while the decider thinks about it is held back, and no more than
// there is room for.
func TestWhileTheDeciderThinksNothingPasses(t *testing.T) {
	h, o := askingHouse(t, decide.Config{}, nil)
	let := make(chan struct{})
	o.change(func() {
		o.says = func(q map[string]any) string {
			if property(q, "protocol") == nil {
				return `{"decision": false, "context": {"needs": "protocol"}}`
			}
			<-let
			return yes
		}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	h.must(err)
	defer ln.Close()
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", addrPort(ln.Addr()).Port()))
	h.must(err)
	defer conn.Close()
	target, err := ln.Accept()
	h.must(err)
	defer target.Close()
	sent := []byte("SSH-2.0-x\r\n" + strings.Repeat("much more\n", 2*maxHeld/10))
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent[:20])
		if err == nil {
			_, err = conn.Write(sent[20:])
		}
		written <- err
	}()
	waitFor(t, func() bool { return h.cfg.Decider.Listens() })
	select {
	case err := <-written:
		t.Errorf("everything was taken, or %v", err)
	case <-time.After(2 * sniffLimit):
	}
	target.SetReadDeadline(time.Now())
	if n, err := target.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("something passes")
	}
	close(let)
	target.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(target, got); err != nil || string(got) != string(sent) {
		t.Errorf("something else has come: %v", err)
	}
	h.must(<-written)
}

func TestDatagramsWaitForTheDecider(t *testing.T) {
	h, o := askingHouse(t, decide.Config{Cache: time.Second}, nil)
	good, bad := udpEcho(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0")
	o.change(func() {
		o.says = func(q map[string]any) string {
			if property(q, "port") == float64(bad.Port) {
				return no
			}
			return yes
		}
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	box := newMailbox()
	a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, box)
	h.must(err)
	defer a.Close()
	send := func(to socks.Addr, text string) {
		a.Send([]socks.Datagram{{Addr: to, Payload: []byte(text)}})
	}
	send(bad, "never")
	send(good, "first")
	send(good, "second")
	for _, want := range []string{"first", "second"} {
		if got := box.next(t); string(got.Payload) != want {
			t.Errorf("got %q, not %q", got.Payload, want)
		}
	}
	o.always(no)
	waitFor(t, func() bool { // its answers, and what was made of them, count for a while
		send(good, "again")
		select {
		case <-box.mail:
			return false
		case <-time.After(100 * time.Millisecond):
			return true
		}
	})
}

func TestDeciderIsAskedAboutNamesAndPings(t *testing.T) {
	h, o := askingHouse(t, decide.Config{}, nil)
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	asks := v.MayResolve(socks.Request{})
	h.must(asks.Permits("good.example", netip.AddrPortFrom(netip.Addr{}, 53)))
	h.must(ping(v, socks.Request{}, "127.0.0.1"))
	o.always(no)
	h.SetPolicy(nil)
	if asks.Permits("good.example", netip.AddrPortFrom(netip.Addr{}, 53)) == nil || ping(v, socks.Request{}, "127.0.0.1") == nil {
		t.Error("what the decider denies is allowed")
	}
}

func TestRecordSaysWhatTheDeciderHasSaid(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	o := newOracle(t)
	o.always(no)
	h.cfg.Decider.Set(decide.Config{URL: o.URL, Name: "oracle"})
	g := h.attach(h.device("anna"))
	if _, code := g.request(socks.Connect, onLoopback(echoTarget(t))); code != socks.NotAllowed {
		t.Fatal(code)
	}
	all := end(audit.Flow)
	if len(all) != 1 || all[0].What != "decider oracle: deny: because" || all[0].Decision != audit.Refused || all[0].End != "not allowed" {
		t.Errorf("the record is %+v", all)
	}
}

func TestRecordOfWhatTheDeciderEndsSaysSo(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	o := newOracle(t)
	o.change(func() {
		o.says = func(q map[string]any) string {
			if property(q, "protocol") == nil {
				return `{"decision": false, "context": {"needs": "protocol"}}`
			}
			return no
		}
	})
	h.cfg.Decider.Set(decide.Config{URL: o.URL, Name: "oracle", Timeout: patience})
	g := h.attach(h.device("anna"))
	const flows = 20
	for range flows {
		conn := g.connect(echoTarget(t))
		_, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"))
		h.must(err)
		wantBroken(t, conn)
	}
	for _, r := range end(audit.Flow) {
		if r.What != "decider oracle: deny: because" || r.Decision != audit.Refused || r.End != "not allowed" {
			t.Errorf("the record is %+v", r)
		}
	}
}

func TestDeciderIsToldThatAUserHasChanged(t *testing.T) {
	h, o := askingHouse(t, decide.Config{Cache: time.Hour}, nil)
	conn := h.attach(h.device("anna")).connect(echoTarget(t))
	exchange(t, conn, "hello")
	o.change(func() {
		o.says = func(q map[string]any) string {
			if groups, _ := json.Marshal(q["subject"]); strings.Contains(string(groups), `"visitors"`) {
				return no
			}
			return yes
		}
	})
	token, key := keys.NewToken(), h.newKey()
	h.must(h.store.Invite(t.Context(), "anna", token, time.Now().Add(time.Hour), "visitors"))
	_, err := h.store.Join(t.Context(), token.Bytes(), users.Device{Key: key.Public(), WireGuard: key.WireGuardPublic(), Name: "phone"})
	h.must(err)
	wantBroken(t, conn)
}

func TestAssociationHasFewQuestionsOpen(t *testing.T) {
	let := make(chan struct{})
	var asked atomic.Int64
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		<-let
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, yes)
	}))
	defer slow.Close()
	h, _ := askingHouse(t, decide.Config{}, nil)
	h.cfg.Decider.Set(decide.Config{URL: slow.URL, Timeout: patience})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	box := newMailbox()
	a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, box)
	h.must(err)
	defer a.Close()
	const destinations = 2 * maxAsked
	for range destinations {
		a.Send([]socks.Datagram{{Addr: udpEcho(t, "127.0.0.1:0"), Payload: []byte("hello")}})
	}
	waitFor(t, func() bool { return asked.Load() == maxAsked })
	close(let)
	for range destinations { // those that had to wait come, too
		box.next(t)
	}
}
