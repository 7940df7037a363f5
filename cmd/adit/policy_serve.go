package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/policy"
)

const policyServeHelp = `Decide by a policy for others: servers whose [decider] in server.toml names this one, and
whatever else speaks the OpenID AuthZEN Authorization API 1.0. Without FILE the policy is
that of the server's directory, which no server need run in. SIGHUP reads it again, and
the certificates; one with anything wrong in it does not take the old one's place.

Those who ask come over TLS, with a certificate that --client-ca has issued, or on this
machine by a Unix socket that the same user alone can open:

  adit policy serve --unix /run/adit/policy.sock policy.toml
  adit policy serve --listen :8444 --cert pdp.pem --key pdp.key --client-ca exits.pem

and in the server.toml of each server that is to ask:

  [decider]
  url = "https://pdp.example.com:8444"
  ca = "ca.pem"
  cert = "exit.pem"
  key = "exit.key"

A question is one of POST /access/v1/evaluation, or several of /access/v1/evaluations:

  {"subject": {"type": "user", "id": "alice", "properties": {"groups": ["staff"],
     "device": "laptop", "from": "192.0.2.7", "door": "session", "method": "device",
     "protection": ["tls"], "cipher": "TLS_AES_128_GCM_SHA256"}},
   "action": {"name": "connect", "properties": {"dialect": "socks6"}},
   "resource": {"type": "target", "id": "media.example.com:554",
     "properties": {"address": "203.0.113.9", "protocol": "rtsp"}}}

What the properties leave out is not known. If that is an address or protocol that the
answer depends on, it is false, and "needs" in its context says which. Limits of rules are
for the server that has the rules: those who ask are told allow or deny.

When it can be asked, it prints a line that begins with "ready" to standard error.`

// pointCommand is adit policy serve.
type pointCommand struct {
	dir    dirFlag
	files  []string
	unix   string
	listen string
	cert   string
	key    string
	ca     string
	flags  logFlags
}

func newPolicyServe(e env) *cobra.Command {
	x := &pointCommand{dir: dirFlag{kind: serverKind}}
	c := &cobra.Command{
		Use:   "serve [FILE]",
		Short: "Decide by a policy for other servers and products",
		Long:  policyServeHelp,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			x.files = args
			return x.run(c.Context(), e.stderr)
		},
	}
	x.dir.add(c)
	x.flags.add(c)
	f := c.Flags()
	f.StringVar(&x.unix, "unix", "", "`path` of a Unix socket to answer at")
	f.StringVar(&x.listen, "listen", "", "`address` to answer at over TLS: HOST:PORT, or :PORT for all")
	f.StringVar(&x.cert, "cert", "", "PEM `file` with the certificate to show, and its chain")
	f.StringVar(&x.key, "key", "", "PEM `file` with its private key")
	f.StringVar(&x.ca, "client-ca", "", "PEM `file` with the CA that issues the certificates of those who may ask")
	return c
}

// check looks whether the flags fit together.
func (x *pointCommand) check() error {
	over := x.cert != "" && x.key != "" && x.ca != ""
	switch {
	case (x.unix == "") == (x.listen == ""):
		return hint(usageError{errors.New("where is it to answer?")}, "say --unix PATH or --listen ADDRESS")
	case x.listen != "" && !over:
		return hint(usageError{errors.New("--listen takes --cert, --key and --client-ca")}, "whoever may ask can find out all the rules, so each proves who he is")
	case x.unix != "" && x.cert+x.key+x.ca != "":
		return usageError{errors.New("certificates go with --listen")}
	}
	return nil
}

// pointProcess is a decision point that runs.
type pointProcess struct {
	*pointCommand
	log   journal
	point *decide.Point
	tls   atomic.Pointer[tls.Config]
}

func (x *pointCommand) run(ctx context.Context, stderr io.Writer) error {
	if err := x.check(); err != nil {
		return err
	}
	log, err := x.flags.over(defaultLogConfig())
	if err != nil {
		return err
	}
	p := &pointProcess{pointCommand: x, log: newJournal(stderr, log)}
	p.point = decide.NewPoint(server.Judged, p.log.Logger)
	if err := p.load(); err != nil {
		return err
	}
	ln, t, err := p.open(ctx)
	if err != nil {
		return err
	}
	return (&process{
		log:     p.log,
		parts:   []func(context.Context) error{func(ctx context.Context) error { return p.point.Serve(ctx, ln, t) }},
		ready:   func(context.Context) error { return nil },
		started: func() { fmt.Fprintf(stderr, "ready policy on %s\n", ln.Addr()) },
		reload:  p.load,
		drain:   func(context.Context) {}, // what is under way is answered anyway
		limit:   func() time.Duration { return 0 },
	}).run(ctx)
}

// load reads what can change while it runs. If it fails, all is as it was.
func (p *pointProcess) load() error {
	rules, err := policyOf(&p.dir, p.files)
	if err != nil {
		return err
	}
	if p.listen != "" {
		t, err := p.loadTLS()
		if err != nil {
			return err
		}
		p.tls.Store(t)
	}
	p.point.SetPolicy(rules)
	for _, r := range rules.Rules() {
		if r.Limit != (policy.Limit{}) {
			p.log.Warn("what a rule limits is not limited for those who ask", "rule", r.Name, "line", r.Line)
		}
	}
	return nil
}

func (p *pointProcess) loadTLS() (*tls.Config, error) {
	if err := checkFile(p.key); err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, hint(fmt.Errorf("load certificate: %w", err), "--cert and --key name PEM files that belong together")
	}
	pool, err := readCA(p.ca)
	if err != nil {
		return nil, fmt.Errorf("read --client-ca: %w", err)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{cert},
		ClientCAs:              pool,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true, // everybody shows his certificate, which may have expired
	}, nil
}

// open opens the listener, and gives the TLS config that goes with it, if one does.
func (p *pointProcess) open(ctx context.Context) (net.Listener, *tls.Config, error) {
	if p.unix != "" {
		ln, err := listenPrivate(p.unix)
		return ln, nil, err
	}
	var l net.ListenConfig
	ln, err := l.Listen(ctx, "tcp", p.listen)
	if err != nil {
		return nil, nil, listenHint(fmt.Errorf("listen on %s: %w", p.listen, err), p.listen)
	}
	return ln, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return p.tls.Load(), nil },
	}, nil
}
