package decide

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/policy"
)

// Paths of a [Point] (AuthZEN sections 10.1 and 9.2).
const (
	EvaluationPath  = "/access/v1/evaluation"
	evaluationsPath = "/access/v1/evaluations"
	metadataPath    = "/.well-known/authzen-configuration"
)

const (
	maxEvaluation  = 64 << 10 // bytes of a request for one
	maxEvaluations = 1 << 20  // and for several
	maxTogether    = 256      // evaluations in one request
)

// Point is an AuthZEN decision point whose decisions are those of a policy. It is a
// handler of requests, and may be used by many at once. Who may ask, how often and for how long
// is its server's concern.
type Point struct {
	judged func(netip.Addr) []netip.Addr
	log    *slog.Logger
	policy atomic.Pointer[policy.Policy]
}

// NewPoint gives a decision point, which needs a policy before it is asked. judged gives the
// addresses that have to be allowed for one to be reached.
func NewPoint(judged func(netip.Addr) []netip.Addr, log *slog.Logger) *Point {
	return &Point{judged: judged, log: log}
}

// SetPolicy has the rules of another policy decide from now on.
func (p *Point) SetPolicy(rules *policy.Policy) { p.policy.Store(rules) }

// ServeHTTP answers one request.
func (p *Point) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if id := r.Header.Get("X-Request-ID"); id != "" && len(id) <= 128 {
		w.Header().Set("X-Request-ID", id)
	}
	switch r.Method + " " + r.URL.Path {
	case "POST " + EvaluationPath:
		p.evaluate(w, r, maxEvaluation, func(e evaluations) (any, error) { return p.decide(e.evaluation), nil })
	case "POST " + evaluationsPath:
		p.evaluate(w, r, maxEvaluations, p.decideAll)
	case "GET " + metadataPath:
		p.describe(w, r)
	default:
		http.NotFound(w, r)
	}
}

// decision is the Access Evaluation response (AuthZEN section 6.2).
type decision struct {
	Decision bool    `json:"decision"`
	Context  remarks `json:"context,omitzero"`
}

// remarks is what is said beside yes or no.
type remarks struct {
	Reason map[string]string `json:"reason_admin,omitempty"` // by language
	Needs  string            `json:"needs,omitempty"`        // what it takes to decide
	Rule   string            `json:"rule,omitempty"`
	Error  *problem          `json:"error,omitempty"`
}

// IsZero tells whether nothing is said.
func (r remarks) IsZero() bool {
	return r.Reason == nil && r.Needs+r.Rule == "" && r.Error == nil
}

type problem struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// evaluations is the Access Evaluations request (AuthZEN section 7.1). What its evaluations do
// not say is as in the one that it is itself.
type evaluations struct {
	evaluation
	Evaluations []evaluation `json:"evaluations"`
	Options     struct {
		Semantic string `json:"evaluations_semantic"`
	} `json:"options"`
}

// badRequest is in the errors for which the whole request is refused.
var errBadRequest = errors.New("bad request")

// evaluate reads a request, and answers it.
func (p *Point) evaluate(w http.ResponseWriter, r *http.Request, limit int64, answer func(evaluations) (any, error)) {
	var e evaluations
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	err := d.Decode(&e)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("something follows the request")
		}
	}
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		http.Error(w, tooLong.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, "read request: "+err.Error(), http.StatusBadRequest)
		return
	}
	said, err := answer(e)
	if one, ok := said.(decision); ok && one.Context.Error != nil {
		err = fmt.Errorf("%w: %s", errBadRequest, one.Context.Error.Message)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply(w, said)
}

func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	// If the asker has gone there is nobody to tell.
	_ = json.NewEncoder(w).Encode(answer)
}

// The semantics of several evaluations.
const (
	executeAll          = "execute_all"
	denyOnFirstDeny     = "deny_on_first_deny"
	permitOnFirstPermit = "permit_on_first_permit"
)

// decideAll decides several evaluations, or the one that the request is itself.
func (p *Point) decideAll(e evaluations) (any, error) {
	if len(e.Evaluations) == 0 {
		return p.decide(e.evaluation), nil
	}
	if len(e.Evaluations) > maxTogether {
		return nil, fmt.Errorf("%w: more than %d evaluations", errBadRequest, maxTogether)
	}
	var stop func(decided bool) bool
	switch cmp.Or(e.Options.Semantic, executeAll) {
	case executeAll:
		stop = func(bool) bool { return false }
	case denyOnFirstDeny:
		stop = func(allowed bool) bool { return !allowed }
	case permitOnFirstPermit:
		stop = func(allowed bool) bool { return allowed }
	default:
		return nil, fmt.Errorf("%w: the semantics are %s, %s and %s", errBadRequest, executeAll, denyOnFirstDeny, permitOnFirstPermit)
	}
	var all struct {
		Evaluations []decision `json:"evaluations"`
	}
	for _, one := range e.Evaluations {
		one.Subject, one.Action = cmp.Or(one.Subject, e.Subject), cmp.Or(one.Action, e.Action)
		one.Resource, one.Context = cmp.Or(one.Resource, e.Resource), cmp.Or(one.Context, e.Context)
		all.Evaluations = append(all.Evaluations, p.decide(one))
		if stop(all.Evaluations[len(all.Evaluations)-1].Decision) {
			break
		}
	}
	return all, nil
}

// decide decides one evaluation.
func (p *Point) decide(e evaluation) decision {
	q, err := e.question(time.Now())
	if err != nil {
		return decision{Context: remarks{Error: &problem{http.StatusBadRequest, err.Error()}}}
	}
	caller := p.policy.Load().For(q.Who)
	var d policy.Decision
	for _, q.Request.Addr = range p.judged(q.Request.Addr) {
		if d = caller.Decide(q.Request); d.Outcome != policy.Allow {
			break
		}
	}
	p.log.Debug("decided", "user", q.Who.User, "command", q.Request.Command, "target", e.Resource.ID, "decision", d)
	said := decision{Decision: d.Outcome == policy.Allow, Context: remarks{Reason: map[string]string{"en": strings.TrimPrefix(d.String(), d.Outcome.String()+": ")}}}
	switch d.Outcome {
	case policy.NeedsAddress:
		said.Context.Needs = "address"
	case policy.NeedsProtocol:
		said.Context.Needs = "protocol"
	}
	if d.Rule != nil {
		said.Context.Rule = d.Rule.Name
	}
	return said
}

// describe gives the metadata (AuthZEN section 9). The decision point is called what the request calls it.
func (p *Point) describe(w http.ResponseWriter, r *http.Request) {
	if strings.Trim(r.Host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.:[]") != "" || r.Host == "" {
		http.Error(w, "there is no such host", http.StatusBadRequest)
		return
	}
	self := "https://" + r.Host
	reply(w, map[string]string{
		"policy_decision_point":       self,
		"access_evaluation_endpoint":  self + EvaluationPath,
		"access_evaluations_endpoint": self + evaluationsPath,
	})
}
