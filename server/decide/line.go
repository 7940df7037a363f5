package decide

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"time"
)

// What holds if the configuration does not say.
const (
	DefaultTimeout = 2 * time.Second
	DefaultCache   = 30 * time.Second
	DefaultEntries = 10_000
	DefaultKeep    = time.Minute
)

// Kind is how a decision point is spoken to.
type Kind string

// The kinds.
const (
	AuthZEN Kind = "authzen"
	OPA     Kind = "opa"
)

// Verdict is what is taken for the answer where there is none.
type Verdict string

// The verdicts.
const (
	Deny  Verdict = "deny"
	Allow Verdict = "allow"
)

// Config says whom to ask, and how.
type Config struct {
	Name string // in records and logs

	URL    string // of what answers, with its path; "": there is nobody to ask
	Kind   Kind   // "" means AuthZEN
	Socket string // a Unix socket to connect to, wherever the URL says; "": none

	TLS   *tls.Config // for https; nil: what the system trusts
	Token string      // bearer token; "": none

	Timeout time.Duration // of a question; 0 means DefaultTimeout
	Cache   time.Duration // how long an answer counts; 0 means DefaultCache
	Entries int           // how many answers are kept; 0 means DefaultEntries

	// Keep is how much longer what is open goes on while there is no other answer; negative:
	// no longer. 0 means DefaultKeep.
	Keep time.Duration

	OnFailure Verdict // "" means Deny
}

func (c Config) withDefaults() Config {
	c.Kind = cmp.Or(c.Kind, AuthZEN)
	c.OnFailure = cmp.Or(c.OnFailure, Deny)
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.Cache = cmp.Or(c.Cache, DefaultCache)
	c.Entries = cmp.Or(c.Entries, DefaultEntries)
	c.Keep = max(cmp.Or(c.Keep, DefaultKeep), 0)
	return c
}

// absence is an error for which nobody may be there to answer. Its text may have come from
// anybody, as that of a wrong certificate does.
type absence struct{ error }

func (a absence) Error() string { return plain(a.error.Error()) }

func (a absence) Unwrap() error { return a.error }

// line is the way to a decision point.
type line struct {
	cfg  Config
	http *http.Transport
}

func newLine(cfg Config) *line {
	dialer := &net.Dialer{Timeout: cfg.Timeout}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        cfg.TLS,
		DisableCompression:     true, // no small answer becomes a large one
		MaxConnsPerHost:        inFlight,
		MaxIdleConnsPerHost:    inFlight,
		IdleConnTimeout:        time.Minute,
		TLSHandshakeTimeout:    cfg.Timeout, // it goes on when its question has been given up
		MaxResponseHeaderBytes: 16 << 10,
	}
	if cfg.Socket != "" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", cfg.Socket)
		}
	}
	return &line{cfg, t}
}

// close lets go of the connections once they are not used any more.
func (l *line) close() { l.http.CloseIdleConnections() }

// askInTurn asks when there is a turn.
func (l *line) askInTurn(q Question, turns chan struct{}) (Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.cfg.Timeout)
	defer cancel()
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		return Answer{}, errBusy
	}
	body, err := l.exchange(ctx, q)
	if err != nil {
		return Answer{}, err
	}
	read := readAuthZEN
	if l.cfg.Kind == OPA {
		read = readOPA
	}
	a, err := read(body)
	a.At = time.Now()
	return a, err
}

// exchange sends a question and gives the body of the answer. No redirect is followed: a
// RoundTripper never does.
func (l *line) exchange(ctx context.Context, q Question) ([]byte, error) {
	r, err := l.request(ctx, q)
	if err != nil {
		return nil, err
	}
	resp, err := l.http.RoundTrip(r)
	if err != nil {
		return nil, absence{err}
	}
	defer resp.Body.Close() // reading only: nothing to lose
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil, absence{fmt.Errorf("the decider says %s", plain(resp.Status))}
	default:
		return nil, fmt.Errorf("the decider says %s", plain(resp.Status))
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fmt.Errorf("the answer is no JSON, but %q", plain(resp.Header.Get("Content-Type")))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, absence{err}
	case len(b) > maxAnswer:
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return b, nil
}

func (l *line) request(ctx context.Context, q Question) (*http.Request, error) {
	var body any = q.evaluation()
	if l.cfg.Kind == OPA {
		body = struct {
			Input any `json:"input"`
		}{body}
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("write question: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.cfg.URL, bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("write question: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	if l.cfg.Token != "" {
		r.Header.Set("Authorization", "Bearer "+l.cfg.Token)
	}
	return r, nil
}
