package decide

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/server/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for.
const patience = 20 * time.Second

// oracle is a decision point that says what a test wants.
type oracle struct {
	*httptest.Server
	asked atomic.Int64
	say   atomic.Pointer[func(w http.ResponseWriter, r *http.Request, body []byte)]
}

func newOracle(t *testing.T, answer string) *oracle {
	t.Helper()
	o := &oracle{}
	o.says(answer)
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		(*o.say.Load())(w, r, body)
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *oracle) does(f func(w http.ResponseWriter, r *http.Request, body []byte)) { o.say.Store(&f) }

func (o *oracle) says(answer string) {
	o.does(func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, answer)
	})
}

// decider asks an oracle.
func decider(t *testing.T, o *oracle, change func(*Config)) *Decider {
	t.Helper()
	d := New(slog.New(slog.DiscardHandler))
	cfg := Config{Name: "oracle", URL: o.URL + EvaluationPath, Timeout: patience}
	if change != nil {
		change(&cfg)
	}
	d.Set(cfg)
	t.Cleanup(d.Close)
	return d
}

func question() Question {
	return Question{
		Who:     policy.Who{User: "alice", Groups: []string{"staff"}, From: netip.MustParseAddr("192.0.2.7"), Protection: []string{"tls"}},
		Request: policy.Request{Dialect: "socks6", Command: "connect", Name: "media.example.com", Addr: netip.MustParseAddr("203.0.113.9"), Port: 554, Time: time.Unix(1_800_000_000, 0).UTC()},
	}
}

func TestQuestionIsWrittenAsAuthZENSays(t *testing.T) {
	var got, want any
	o := newOracle(t, "")
	o.does(func(w http.ResponseWriter, r *http.Request, body []byte) {
		if r.Method != http.MethodPost || r.URL.Path != "/access/v1/evaluation" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Error(err)
		}
		reply(w, decision{Decision: true})
	})
	d := decider(t, o, func(c *Config) { c.Token = "secret" })
	if a := d.Decide(question()); a.Outcome != policy.Allow || a.Err != nil {
		t.Fatal(a)
	}
	if err := json.Unmarshal([]byte(`{
		"subject": {"type": "user", "id": "alice", "properties": {"groups": ["staff"], "from": "192.0.2.7", "protection": ["tls"]}},
		"action": {"name": "connect", "properties": {"dialect": "socks6"}},
		"resource": {"type": "target", "id": "media.example.com:554", "properties": {"name": "media.example.com", "address": "203.0.113.9", "port": 554}},
		"context": {"time": "2027-01-15T08:00:00Z"}
	}`), &want); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestOPAGetsTheQuestionAsInput(t *testing.T) {
	o := newOracle(t, "")
	o.does(func(w http.ResponseWriter, r *http.Request, body []byte) {
		var q struct{ Input evaluation }
		if err := json.Unmarshal(body, &q); err != nil || r.URL.Path != "/v1/data/adit" || q.Input.Subject.ID != "alice" {
			t.Errorf("%s %s: %v", r.URL, body, err)
		}
		reply(w, map[string]any{"result": true})
	})
	d := decider(t, o, func(c *Config) { c.Kind, c.URL = OPA, o.URL+"/v1/data/adit" })
	if a := d.Decide(question()); a.Outcome != policy.Allow {
		t.Fatal(a)
	}
}

func TestAnswersAreReadStrictly(t *testing.T) {
	for text, want := range map[string]string{
		`{"decision": true}`: "allow",
		`{"decision": true, "context": {"reason": "it is he"}}`: "allow: it is he",
		`{"decision": false}`:                  "deny",
		`{"decision": false, "context": null}`: "deny",
		`{"decision": false, "context": {"reason_admin": {"en": "a\u001b[31mb\nc"}}}`: "deny: a [31mb c",
		`{"decision": false, "context": {"reason_user": {"de-403": "nein"}}}`:         "deny: nein",
		`{"decision": false, "context": {"needs": "protocol"}}`:                       "needs protocol",
		`{"decision": true, "context": {"needs": "protocol"}}`:                        "allow",
		`{"decision": false, "Decision": true}`:                                       "deny",
		`{"decision": false, "decision": true}`:                                       "no answer",
		`{"decision": true, "\u0064ecision": true}`:                                   "no answer",
		`{"decision": false, "context": {"needs": "x", "needs": "protocol"}}`:         "deny",
		`{"DECISION": true}`:                     "no answer",
		`{"decision": "true"}`:                   "no answer",
		`{"decision": 1}`:                        "no answer",
		`{"decision": null}`:                     "no answer",
		`{}`:                                     "no answer",
		`null`:                                   "no answer",
		`true`:                                   "no answer",
		`{"decision": true} {"decision": false}`: "no answer",
		`{"decision": true`:                      "no answer",
		``:                                       "no answer",
		`<html>`:                                 "no answer",
		strings.Repeat("[", 20_000):              "no answer",
	} {
		if got := verdictOf(readAuthZEN([]byte(text))); got != want {
			t.Errorf("%.60s: %s", text, got)
		}
	}
	for text, want := range map[string]string{
		`{"result": true}`:                                  "allow",
		`{"result": false}`:                                 "deny",
		`{"result": {"allow": true, "reason": "x"}}`:        "allow: x",
		`{"result": {"allow": false, "needs": "protocol"}}`: "needs protocol",
		`{"decision_id": "1"}`:                              "deny: the document is not defined",
		`{"result": {"allow": false, "allow": true}}`:       "no answer",
		`{"result": {}}`:                                    "no answer",
		`{"result": {"allow": "yes"}}`:                      "no answer",
		`{"result": [true]}`:                                "no answer",
		`{"result": null}`:                                  "no answer",
	} {
		if got := verdictOf(readOPA([]byte(text))); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func verdictOf(a Answer, err error) string {
	if err != nil {
		return "no answer"
	}
	return a.String()
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"decision": false, "context": {"reason_admin": {"en": "no"}, "needs": "protocol"}}`))
	f.Add([]byte(`{"result": {"allow": true, "reason": "x"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range []func([]byte) (Answer, error){readAuthZEN, readOPA} {
			a, err := read(b)
			if err == nil && a.Outcome == policy.Allow && !strings.Contains(string(b), "true") {
				t.Errorf("%s is read as %s", b, a)
			}
			if n := len([]rune(a.Reason)); n > maxReason+1 || strings.ContainsAny(a.Reason, "\n\x1b") {
				t.Errorf("the reason is %q", a.Reason)
			}
		}
	})
}

func TestWhatIsNoAnswerPermitsNothing(t *testing.T) {
	elsewhere := newOracle(t, `{"decision": true}`)
	for name, f := range map[string]func(w http.ResponseWriter, r *http.Request, body []byte){
		"a redirect": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, elsewhere.URL+EvaluationPath, http.StatusTemporaryRedirect)
		},
		"another status": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusAccepted)
			io.WriteString(w, `{"decision": true}`)
		},
		"a failure": func(w http.ResponseWriter, _ *http.Request, _ []byte) { http.Error(w, `{"decision": true}`, 500) },
		"a page": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, `{"decision": true}`)
		},
		"no end": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"decision": true, "context": {"reason": "`)
			for range 100 {
				io.WriteString(w, strings.Repeat("x", 1<<10))
			}
			io.WriteString(w, `"}}`)
		},
		"an answer that breaks off": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"decision": true}`)
		},
		"long headers": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			reply(w, decision{Decision: true})
		},
		"something compressed": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, "\x1f\x8b\x08\x00")
		},
	} {
		o := newOracle(t, "")
		o.does(f)
		d := decider(t, o, nil)
		if a := d.Decide(question()); a.Outcome != policy.Deny || a.Err == nil {
			t.Errorf("%s: %s", name, a)
		}
		open := decider(t, o, func(c *Config) { c.OnFailure = Allow })
		if a := open.Decide(question()); a.Outcome != policy.Allow || a.Err == nil {
			t.Errorf("%s, where failures allow: %s", name, a)
		}
	}
	if elsewhere.asked.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestDeciderThatIsSlowIsGivenUp(t *testing.T) {
	o := newOracle(t, "")
	o.does(func(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() })
	d := decider(t, o, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	if a := d.Decide(question()); a.Outcome != policy.Deny || a.Err == nil {
		t.Errorf("got %s", a)
	}
}

func TestAnswerCountsForOthersForAWhile(t *testing.T) {
	o := newOracle(t, `{"decision": true}`)
	d := decider(t, o, nil)
	for range 3 {
		q := question()
		q.Request.Time = time.Now()
		if a := d.Decide(q); a.Outcome != policy.Allow {
			t.Fatal(a)
		}
	}
	if n := o.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	other := question()
	other.Who.User = "bob"
	d.Decide(other)
	if n := o.asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	o.says(`{"decision": false}`)
	d.Forget()
	if a := d.Decide(question()); a.Outcome != policy.Deny || a.Err != nil {
		t.Errorf("got %s", a)
	}
	d.Set(Config{})
	if d.Asks() {
		t.Error("there is nobody to ask any more")
	}
	if a := d.Decide(question()); a.Outcome != policy.Deny {
		t.Errorf("nobody says %s", a)
	}
}

func TestAQuestionIsAskedOnceAtATime(t *testing.T) {
	o := newOracle(t, "")
	let := make(chan struct{})
	o.does(func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		<-let
		reply(w, decision{Decision: true})
	})
	d := decider(t, o, nil)
	_, first := d.Ask(question())
	for range 10 {
		if _, again := d.Ask(question()); again != first {
			t.Fatal("asked once more")
		}
	}
	heard := make(chan struct{})
	first.Then(func() { close(heard) })
	close(let)
	<-first.Done()
	select {
	case <-heard:
	case <-time.After(patience):
		t.Error("nobody was told")
	}
	if a, asking := d.Ask(question()); asking != nil || a.Outcome != policy.Allow {
		t.Errorf("got %s", a)
	}
	if n := o.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestAnswerThatWasForgottenDoesNotCount(t *testing.T) {
	o := newOracle(t, "")
	let := make(chan struct{})
	o.does(func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		<-let
		reply(w, decision{Decision: true})
	})
	d := decider(t, o, nil)
	_, before := d.Ask(question())
	d.Forget()
	_, after := d.Ask(question())
	if before == after {
		t.Fatal("not asked anew")
	}
	close(let)
	<-before.Done()
	<-after.Done()
	if n := o.asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestDeciderIsAskedWhatIsSpokenOnlyIfItWantsToKnow(t *testing.T) {
	o := newOracle(t, "")
	o.does(func(w http.ResponseWriter, _ *http.Request, body []byte) {
		switch {
		case strings.Contains(string(body), `"protocol":"rtsp"`):
			reply(w, decision{Decision: true})
		case strings.Contains(string(body), `"protocol"`):
			reply(w, decision{})
		default:
			reply(w, decision{Context: remarks{Needs: "protocol"}})
		}
	})
	d := decider(t, o, nil)
	if d.Listens() {
		t.Error("it listens before it has said so")
	}
	q := question()
	if a := d.Decide(q); a.Outcome != policy.NeedsProtocol || !d.Listens() {
		t.Fatal(a)
	}
	q.Request.Protocol = "rtsp"
	if a := d.Decide(q); a.Outcome != policy.Allow {
		t.Errorf("rtsp: %s", a)
	}
	q.Request.Protocol = "http"
	if a := d.Decide(q); a.Outcome != policy.Deny || a.Err != nil {
		t.Errorf("http: %s", a)
	}
	o.says(`{"decision": false, "context": {"needs": "protocol"}}`)
	d = decider(t, o, func(c *Config) { c.OnFailure = Allow })
	if a := d.Decide(q); a.Outcome != policy.Deny || a.Err != nil {
		t.Errorf("one that is never content: %s", a)
	}
	o.says(`{"decision": false, "context": {"needs": "address"}}`)
	d.Forget()
	if a := d.Decide(q); a.Outcome != policy.Deny || a.Err != nil {
		t.Errorf("one that wants the address it has: %s", a)
	}
}

func TestUserHasAShareOfTheQuestions(t *testing.T) {
	o := newOracle(t, "")
	let := make(chan struct{})
	o.does(func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		<-let
		reply(w, decision{Decision: true})
	})
	d := decider(t, o, nil)
	q := question()
	for port := range maxOfUser {
		q.Request.Port = uint16(port)
		if _, asking := d.Ask(q); asking == nil {
			t.Fatalf("question %d was not asked", port)
		}
	}
	q.Request.Port = maxOfUser
	if a, asking := d.Ask(q); asking != nil || a.Outcome != policy.Deny || a.Err == nil {
		t.Errorf("one too many: %s", a)
	}
	q.Who.User = "bob"
	if _, asking := d.Ask(q); asking == nil {
		t.Error("others suffer")
	}
	close(let)
}

func TestDeciderAtAUnixSocket(t *testing.T) {
	o := newOracle(t, `{"decision": true}`)
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: o.Config.Handler}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(ln) }()
	defer func() { s.Close(); <-served }()
	d := decider(t, o, func(c *Config) { c.URL, c.Socket = "http://decider"+EvaluationPath, path })
	if a := d.Decide(question()); a.Outcome != policy.Allow {
		t.Error(a)
	}
	d.Set(Config{}) // its connections end before the server waits for them
}

func TestDeadDeciderIsAskedFromTimeToTimeAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(slog.New(slog.DiscardHandler))
		defer d.Close()
		d.Set(Config{Name: "dead", URL: "http://dead/"})
		var dials atomic.Int64
		d.line.http.DialContext = refuse(&dials)
		q := question()
		ask := func() Answer {
			q.Request.Port++
			return d.Decide(q)
		}
		for range deadAfter {
			if a := ask(); a.Outcome != policy.Deny || a.Err == nil {
				t.Fatal(a)
			}
		}
		if d.Failing() == nil {
			t.Error("it is not known to be dead")
		}
		for range 10 {
			ask()
		}
		if n := dials.Load(); n != deadAfter {
			t.Errorf("dialled %d times", n)
		}
		time.Sleep(minPause)
		for range 10 {
			ask()
		}
		if n := dials.Load(); n != deadAfter+1 {
			t.Errorf("dialled %d times", n)
		}
		time.Sleep(time.Hour)
		before := dials.Load()
		ask()
		time.Sleep(maxPause)
		ask()
		if n := dials.Load(); n != before+2 {
			t.Errorf("dialled %d times", n-before)
		}
	})
}

func TestDeciderThatIsBackIsAskedAgain(t *testing.T) {
	o := newOracle(t, "")
	o.does(func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		http.Error(w, "gone", http.StatusServiceUnavailable)
	})
	d := decider(t, o, nil)
	q := question()
	for q.Request.Port = range uint16(deadAfter) {
		d.Decide(q)
	}
	if d.Failing() == nil {
		t.Fatal("it is not known to be dead")
	}
	o.says(`{"decision": true}`)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		q.Request.Port++
		if d.Decide(q).Outcome == policy.Allow {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it stays dead")
		}
	}
	if err := d.Failing(); err != nil {
		t.Error(err)
	}
}

// Nobody makes a decider look dead by questions that it cannot take.
func TestNonsenseIsNoSignOfDeath(t *testing.T) {
	o := newOracle(t, "")
	o.does(func(w http.ResponseWriter, _ *http.Request, _ []byte) { http.Error(w, "what?", http.StatusBadRequest) })
	d := decider(t, o, nil)
	q := question()
	for q.Request.Port = range uint16(3 * deadAfter) {
		d.Decide(q)
	}
	if err := d.Failing(); err != nil || o.asked.Load() != 3*deadAfter {
		t.Errorf("%v after %d questions", err, o.asked.Load())
	}
}

func TestOldAnswerStaysWhileThereIsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(slog.New(slog.DiscardHandler))
		defer d.Close()
		d.Set(Config{Name: "dead", URL: "http://dead/"})
		var dials atomic.Int64
		d.line.http.DialContext = refuse(&dials)
		k, err := question().before().key()
		if err != nil {
			t.Fatal(err)
		}
		d.answers.put(k, Answer{Outcome: policy.Allow, At: time.Now()})
		time.Sleep(DefaultCache/2 + time.Second)
		for range 2 { // the first asks anew, in vain
			if a, _ := d.Ask(question()); a.Outcome != policy.Allow || a.Err != nil {
				t.Error(a)
			}
			synctest.Wait()
		}
		if dials.Load() == 0 {
			t.Error("an answer that is getting old is not asked for again")
		}
		time.Sleep(DefaultCache / 2)
		if a := d.Decide(question()); a.Outcome != policy.Deny || a.Err == nil {
			t.Errorf("an answer that is too old counts: %s", a)
		}
	})
}

func TestOldAnswerIsNotAskedForAllTheTime(t *testing.T) {
	o := newOracle(t, `{"decision": true}`)
	d := decider(t, o, func(c *Config) { c.Cache = 4 * patience })
	k, err := question().before().key()
	if err != nil {
		t.Fatal(err)
	}
	d.answers.put(k, Answer{Outcome: policy.Allow, At: time.Now().Add(-3 * patience)})
	o.says("what?")
	began := time.Now()
	for range 20 {
		if a, _ := d.Ask(question()); a.Outcome != policy.Allow || a.Err != nil {
			t.Error(a)
		}
		d.running.Wait()
	}
	if n, most := o.asked.Load(), 1+int64(time.Since(began)/failureLife); n < 1 || n > most {
		t.Errorf("asked %d times", n)
	}
}

func TestNoMoreAnswersAreKeptThanThereMayBe(t *testing.T) {
	a := answers{limit: 10}
	var last key
	for i := range 1000 {
		last = key{byte(i), byte(i >> 8)}
		a.put(last, Answer{At: time.Now()})
		if n := len(a.new) + len(a.old); n > 10 {
			t.Fatalf("%d are kept", n)
		}
	}
	if _, ok := a.get(last, time.Hour, time.Now()); !ok {
		t.Error("the last is not")
	}
}

// refuse is a dialer that reaches nobody.
func refuse(dials *atomic.Int64) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		dials.Add(1)
		return nil, errors.New("connection refused")
	}
}

// Who hangs in the handshake holds none of the connections that there may be for good.
func TestHandshakeThatDoesNotEndIsGivenUp(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := New(slog.New(slog.DiscardHandler))
	defer d.Close()
	d.Set(Config{Name: "mute", URL: "https://" + ln.Addr().String() + "/", Timeout: 50 * time.Millisecond})
	if a := d.Decide(question()); a.Outcome != policy.Deny || a.Err == nil {
		t.Errorf("got %s", a)
	}
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays")
	}
}

// Questions that had no turn do not make a dead decider look alive.
func TestQuestionWithoutATurnIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(slog.New(slog.DiscardHandler))
		defer d.Close()
		d.Set(Config{Name: "dead", URL: "http://dead/"})
		var dials atomic.Int64
		d.line.http.DialContext = refuse(&dials)
		q := question()
		for q.Request.Port = range uint16(deadAfter) {
			d.Decide(q)
		}
		for range inFlight {
			d.turns <- struct{}{}
		}
		time.Sleep(minPause)
		q.Request.Port++
		if a := d.Decide(q); !errors.Is(a.Err, errBusy) {
			t.Error(a)
		}
		if d.Failing() == nil {
			t.Error("nobody has answered, yet it is taken for alive")
		}
	})
}

func TestErrorsAreFitToPrint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(slog.New(slog.DiscardHandler))
		defer d.Close()
		d.Set(Config{Name: "odd", URL: "http://odd/"})
		refusal := errors.New("not valid for \x1b[2J" + strings.Repeat("x", 1000))
		d.line.http.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, refusal }
		a := d.Decide(question())
		if text := a.String(); !errors.Is(a.Err, refusal) || strings.Contains(text, "\x1b") || len(text) > 2*maxReason {
			t.Errorf("%q", text)
		}
	})
}
