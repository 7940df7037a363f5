package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/policy"
)

// deciderConfig says who is asked about what rules allow.
type deciderConfig struct {
	URL          string   `toml:"url"`  // empty: nobody
	Kind         string   `toml:"kind"` // of decide.Kind
	Socket       string   `toml:"socket"`
	CA           string   `toml:"ca"` // empty: the system's
	Cert         string   `toml:"cert"`
	Key          string   `toml:"key"`
	TokenFile    string   `toml:"token_file"`
	Timeout      duration `toml:"timeout"`
	Cache        duration `toml:"cache"`
	CacheEntries int      `toml:"cache_entries"`
	Keep         duration `toml:"keep"`
	OnFailure    string   `toml:"on_failure"` // of decide.Verdict
}

func defaultDeciderConfig() deciderConfig {
	return deciderConfig{
		Kind:         string(decide.AuthZEN),
		Timeout:      duration{decide.DefaultTimeout},
		Cache:        duration{decide.DefaultCache},
		CacheEntries: decide.DefaultEntries,
		Keep:         duration{decide.DefaultKeep},
		OnFailure:    string(decide.Deny),
	}
}

func (c deciderConfig) validate(report func(key, what, todo string)) {
	switch decide.Kind(c.Kind) {
	case decide.AuthZEN, decide.OPA:
	default:
		report("decider.kind", "unknown kind "+strconv.Quote(c.Kind), "known are: authzen, opa")
	}
	switch decide.Verdict(c.OnFailure) {
	case decide.Deny, decide.Allow:
	default:
		report("decider.on_failure", "unknown word "+strconv.Quote(c.OnFailure), "known are: deny, allow")
	}
	if c.URL != "" {
		if what, todo := c.badURL(); what != "" {
			report("decider.url", what, todo)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		report("decider", "cert and key go together", "name both files, or neither")
	}
	span := func(key string, d duration, least, most time.Duration) {
		if d.Duration < least || d.Duration > most {
			report("decider."+key, "it is out of range", fmt.Sprintf("write a duration from %q to %q", briefly(least), briefly(most)))
		}
	}
	span("timeout", c.Timeout, 50*time.Millisecond, 10*time.Second)
	span("cache", c.Cache, time.Second, time.Hour)
	span("keep", c.Keep, 0, time.Hour)
	if c.CacheEntries < 100 || c.CacheEntries > 1_000_000 {
		report("decider.cache_entries", strconv.Itoa(c.CacheEntries)+" is out of range", "write a number from 100 to 1000000")
	}
}

// badURL says what is wrong with the URL, and what to do, or "". On its way an answer must not
// be changed, and the token not be read.
func (c deciderConfig) badURL() (what, todo string) {
	u, err := url.Parse(c.URL)
	opa := decide.Kind(c.Kind) == decide.OPA
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "":
		return "it is no URL of a decider", `write url = "https://pdp.example.com"`
	case u.Scheme == "http" && c.Socket == "" && !onThisHost(u.Hostname()):
		return "others could answer in its place", "write https, or have it listen on 127.0.0.1"
	case opa && !strings.HasPrefix(u.Path, "/v1/data/"):
		return "it names no document of OPA's", `write url = "http://127.0.0.1:8181/v1/data/adit", with your own package for adit`
	}
	return "", ""
}

func onThisHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// config reads what the decider needs. Relative names are those of files in the server's
// directory.
func (c deciderConfig) config(dir string) (cfg decide.Config, err error) {
	if c.URL == "" {
		return cfg, nil
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return cfg, err
	}
	if decide.Kind(c.Kind) == decide.AuthZEN && strings.Trim(u.Path, "/") == "" {
		u.Path = decide.EvaluationPath
	}
	cfg = decide.Config{
		Name: u.Host, URL: u.String(), Kind: decide.Kind(c.Kind), Timeout: c.Timeout.Duration, Cache: c.Cache.Duration,
		Entries: c.CacheEntries, Keep: c.Keep.Duration, OnFailure: decide.Verdict(c.OnFailure),
	}
	if c.Keep.Duration == 0 {
		cfg.Keep = -1
	}
	if c.Socket != "" {
		cfg.Socket = within(dir, c.Socket)
	}
	if cfg.TLS, err = c.tls(dir); err != nil {
		return cfg, err
	}
	if c.TokenFile != "" {
		cfg.Token, err = readToken(within(dir, c.TokenFile))
	}
	return cfg, err
}

func (c deciderConfig) tls(dir string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pool, err := readCA(within(dir, c.CA))
		if err != nil {
			return nil, fmt.Errorf("read decider.ca: %w", err)
		}
		t.RootCAs = pool
	}
	if c.Cert != "" {
		if err := checkFile(within(dir, c.Key)); err != nil {
			return nil, fmt.Errorf("read decider.key: %w", err)
		}
		cert, err := tls.LoadX509KeyPair(within(dir, c.Cert), within(dir, c.Key))
		if err != nil {
			return nil, hint(fmt.Errorf("load certificate: %w", err), "cert and key under [decider] name PEM files that belong together")
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}

// readCA reads the certificates of those who issue others.
func readCA(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, hint(fmt.Errorf("there is no certificate in %s", path), "it is a PEM file: -----BEGIN CERTIFICATE-----")
	}
	return pool, nil
}

// maxToken bounds a bearer token, in bytes.
const maxToken = 8 << 10

// readToken reads a bearer token (RFC 6750 section 2.1).
func readToken(path string) (string, error) {
	if err := checkFile(path); err != nil {
		return "", fmt.Errorf("read the decider's token: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the decider's token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", hint(fmt.Errorf("read the decider's token: what is in %s is none", path), "it is one line without spaces")
	}
	return token, nil
}

// newDecider gives the decider that a server would ask, or nil. It must be closed.
func newDecider(dir string, c deciderConfig) (*decide.Decider, error) {
	cfg, err := c.config(dir)
	if err != nil || cfg.URL == "" {
		return nil, err
	}
	d := decide.New(slog.New(slog.DiscardHandler))
	d.Set(cfg)
	return d, nil
}

// decider looks whether there is an answer to a question about nobody.
func (k *checker) decider(ctx context.Context, dir string, c deciderConfig) {
	if c.URL == "" {
		return
	}
	d, err := newDecider(dir, c)
	if err != nil {
		k.say("decider", "", err)
		return
	}
	defer d.Close()
	began := time.Now()
	a := d.Decide(decide.Question{
		Who:     policy.Who{User: "nobody"},
		Request: policy.Request{Dialect: "direct", Command: "connect", Addr: netip.MustParseAddr("192.0.2.1"), Port: 9, Time: began},
	})
	took := time.Since(began).Round(time.Millisecond)
	err = a.Err
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		err = hint(err, "start it, or correct url under [decider] in server.toml")
	}
	k.say("decider", fmt.Sprintf("%s answers in %s; of nobody it says: %s", d.Name(), took, a), err)
}
