package decide

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/server/policy"
)

func rules(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Read("policy.toml", []byte(text), policy.Options{Protocols: map[string]string{"rtsp": "media", "http": "web"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const someRules = `
[[rule]]
name = "no secrets"
names = ["secret.example.com"]
then = "deny"

[[rule]]
name = "video"
groups = ["staff"]
networks = ["203.0.113.0/24"]
protocols = ["rtsp"]
then = "allow"

[[rule]]
name = "office hours"
users = ["bob"]
days = ["mon-fri"]
then = "allow"
`

func point(t testing.TB) *Point {
	itself := func(a netip.Addr) []netip.Addr { return []netip.Addr{a} }
	p := NewPoint(itself, slog.New(slog.DiscardHandler))
	p.SetPolicy(rules(t, someRules))
	return p
}

// post sends a request to a point, and gives the answer.
func post(p *Point, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	p.ServeHTTP(w, r)
	return w
}

const bobsRequest = `"subject": {"type": "user", "id": "bob"}, "action": {"name": "connect"}, "context": {"time": "2026-07-01T09:30:00Z"}`

func TestPointDecidesByRules(t *testing.T) {
	p := point(t)
	for body, want := range map[string]string{
		`{` + bobsRequest + `, "resource": {"type": "target", "id": "www.example.com:443"}}`:                                                                                                                                                         `true "office hours" ""`,
		`{` + bobsRequest + `, "resource": {"type": "target", "id": "secret.example.com:443"}}`:                                                                                                                                                      `false "no secrets" ""`,
		`{` + bobsRequest + `, "resource": {"type": "target", "id": "x", "properties": {"name": "SECRET.example.com.", "port": 1}}}`:                                                                                                                 `false "no secrets" ""`,
		`{"subject": {"type": "user", "id": "bob"}, "action": {"name": "connect"}, "context": {"time": "2026-07-05T09:30Z"}, "resource": {"type": "target", "id": "www.example.com:443"}}`:                                                           `false "" ""`,
		`{"subject": {"type": "user", "id": "alice", "properties": {"groups": ["staff"]}}, "action": {"name": "connect"}, "resource": {"type": "target", "id": "203.0.113.9:554"}}`:                                                                  `false "video" "protocol"`,
		`{"subject": {"type": "user", "id": "alice", "properties": {"groups": ["staff"]}}, "action": {"name": "connect"}, "resource": {"type": "target", "id": "tv.example.com:554"}}`:                                                               `false "video" "address"`,
		`{"subject": {"type": "user", "id": "alice", "properties": {"groups": ["staff"]}}, "action": {"name": "connect"}, "resource": {"type": "target", "id": "tv.example.com:554", "properties": {"address": "203.0.113.9", "protocol": "rtsp"}}}`: `true "video" ""`,
		`{"subject": {"type": "user", "id": "alice"}, "action": {"name": "connect"}, "resource": {"type": "target", "id": "203.0.113.9:554", "properties": {"protocol": "rtsp"}}}`:                                                                   `false "" ""`,
	} {
		w := post(p, EvaluationPath, body)
		var d decision
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
			continue
		}
		if got := fmt.Sprintf("%t %q %q", d.Decision, d.Context.Rule, d.Context.Needs); got != want {
			t.Errorf("%s: %s", body, got)
		}
	}
	p.SetPolicy(rules(t, "[[rule]]\nthen = \"allow\"\n"))
	if w := post(p, EvaluationPath, `{`+bobsRequest+`, "resource": {"type": "target", "id": "secret.example.com:443"}}`); !strings.Contains(w.Body.String(), `"decision":true`) {
		t.Errorf("after a change: %s", w.Body)
	}
}

func TestPointRefusesWhatItCannotRead(t *testing.T) {
	p := point(t)
	const good = `{` + bobsRequest + `, "resource": {"type": "target", "id": "www.example.com:443"}}`
	for body, want := range map[string]int{
		good: 200,
		``:   400, `[]`: 400, `{}`: 400, `null`: 400, good + good: 400, `{"subject": 1}`: 400,
		strings.Replace(good, `"user"`, `"robot"`, 1):                                                               400,
		strings.Replace(good, `"target"`, `"document"`, 1):                                                          400,
		strings.Replace(good, `"connect"`, `"delete"`, 1):                                                           400,
		strings.Replace(good, `"bob"`, `""`, 1):                                                                     400,
		strings.Replace(good, `www.example.com:443`, `127.1:443`, 1):                                                400,
		strings.Replace(good, `www.example.com:443`, `www`, 1):                                                      400,
		strings.Replace(good, `2026-07-01T09:30:00Z`, `noon`, 1):                                                    400,
		strings.Replace(good, `:443"`, `:443", "properties": {"address": "fe80::1%eth0"}`, 1):                       400,
		strings.Replace(good, `:443"`, `:443", "properties": {"name": "203.0.113.8", "address": "203.0.113.9"}`, 1): 400,
		strings.Replace(good, `"www.example.com:443"`, `"x", "properties": {"port": 1}`, 1):                         400,
		strings.Replace(good, `}}`, `, "properties": {"x": "`+strings.Repeat("x", maxEvaluation)+`"}}}`, 1):         413,
	} {
		if w := post(p, EvaluationPath, body); w.Code != want {
			t.Errorf("%.200s: %d %s", body, w.Code, w.Body)
		}
	}
	for _, r := range []*http.Request{
		httptest.NewRequest(http.MethodGet, EvaluationPath, nil),
		httptest.NewRequest(http.MethodPost, "/access/v1/search/subject", strings.NewReader("{}")),
	} {
		w := httptest.NewRecorder()
		if p.ServeHTTP(w, r); w.Code != http.StatusNotFound {
			t.Errorf("%s %s: %d", r.Method, r.URL, w.Code)
		}
	}
}

func TestSeveralEvaluationsInOneRequest(t *testing.T) {
	p := point(t)
	resources := func(ids ...string) string {
		for i, id := range ids {
			ids[i] = `{"resource": {"type": "target", "id": "` + id + `"}}`
		}
		return `{` + bobsRequest + `, "evaluations": [` + strings.Join(ids, ", ") + `]`
	}
	three := func() string { return resources("a.example.com:1", "secret.example.com:1", "nonsense") }
	for body, want := range map[string]string{
		three() + `}`: "[true false false]",
		three() + `, "options": {"evaluations_semantic": "execute_all"}}`:                                         "[true false false]",
		three() + `, "options": {"evaluations_semantic": "deny_on_first_deny"}}`:                                  "[true false]",
		three() + `, "options": {"evaluations_semantic": "permit_on_first_permit"}}`:                              "[true]",
		`{` + bobsRequest + `, "evaluations": [], "resource": {"type": "target", "id": "a.example.com:1"}}`:       "true",
		`{` + bobsRequest + `, "resource": {"type": "target", "id": "a.example.com:1"}}`:                          "true",
		three() + `, "options": {"evaluations_semantic": "guess"}}`:                                               "400",
		resources(strings.Split(strings.Repeat("a.example.com:1 ", maxTogether+1), " ")[:maxTogether+1]...) + `}`: "400",
		`{"evaluations": [{` + bobsRequest + `, "resource": {"type": "target", "id": "a.example.com:1"}}]}`:       "[true]",
	} {
		w := post(p, evaluationsPath, body)
		got := fmt.Sprint(w.Code)
		if w.Code == http.StatusOK {
			var said struct {
				Decision    bool
				Evaluations []decision
			}
			if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil {
				t.Error(err)
			}
			got = fmt.Sprint(said.Decision)
			if said.Evaluations != nil {
				all := []bool{}
				for _, one := range said.Evaluations {
					all = append(all, one.Decision)
				}
				got = fmt.Sprint(all)
			}
		}
		if got != want {
			t.Errorf("%.300s: %s", body, got)
		}
	}
	if w := post(p, evaluationsPath, three()+`}`); !strings.Contains(w.Body.String(), `"error":{"status":400`) {
		t.Errorf("what is wrong with one is not said: %s", w.Body)
	}
}

func TestPointDescribesItself(t *testing.T) {
	p := point(t)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "https://pdp.example.com:8444/.well-known/authzen-configuration", nil)
	r.Header.Set("X-Request-ID", "bfe9eb29")
	p.ServeHTTP(w, r)
	var got map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["policy_decision_point"] != "https://pdp.example.com:8444" || got["access_evaluation_endpoint"] != "https://pdp.example.com:8444/access/v1/evaluation" ||
		got["access_evaluations_endpoint"] != "https://pdp.example.com:8444/access/v1/evaluations" || w.Header().Get("X-Request-ID") != "bfe9eb29" {
		t.Errorf("got %v, %v", got, w.Header())
	}
	r.Host = `evil"/`
	w = httptest.NewRecorder()
	if p.ServeHTTP(w, r); w.Code != http.StatusBadRequest {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// What one adit asks the other decides as if it had the rules itself.
func TestDeciderAndPointUnderstandEachOther(t *testing.T) {
	p := point(t)
	o := newOracle(t, "")
	o.does(func(w http.ResponseWriter, r *http.Request, body []byte) {
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		p.ServeHTTP(w, r)
	})
	d := decider(t, o, nil)
	for _, who := range []policy.Who{{User: "alice", Groups: []string{"staff"}}, {User: "bob"}, {User: "carol", From: netip.MustParseAddr("2001:db8::7"), Protection: []string{"tls", "ipsec"}}} {
		for _, command := range commands {
			for _, name := range []string{"", "secret.example.com", "tv.example.com"} {
				for _, protocol := range []string{"", "rtsp", "http"} {
					q := Question{who, policy.Request{
						Dialect: "socks5", Command: command, Name: name, Addr: netip.MustParseAddr("203.0.113.9"), Port: 554, Protocol: protocol,
						Time: time.Date(2026, 7, 1, 9, 30, 0, 0, time.UTC),
					}}
					want := p.policy.Load().For(who).Decide(q.Request)
					if a := d.Decide(q); a.Outcome != want.Outcome || a.Err != nil || a.String() != want.String() {
						t.Errorf("%+v: %s, not %s", q, a, want)
					}
				}
			}
		}
	}
}

func FuzzEvaluation(f *testing.F) {
	f.Add([]byte(`{` + bobsRequest + `, "resource": {"type": "target", "id": "tv.example.com:554", "properties": {"address": "203.0.113.9", "protocol": "rtsp"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e evaluation
		if json.Unmarshal(b, &e) != nil {
			return
		}
		q, err := e.question(time.Unix(0, 0))
		if err != nil {
			return
		}
		// What was understood is understood once more.
		again, err := q.evaluation().question(time.Unix(0, 0))
		if err != nil || fmt.Sprint(again.Request) != fmt.Sprint(q.Request) && !q.Request.Time.IsZero() && q.Request.Time.Year() < 9999 && q.Request.Time.Equal(again.Request.Time) {
			t.Errorf("%s: %+v becomes %+v, %v", b, q, again, err)
		}
	})
}
