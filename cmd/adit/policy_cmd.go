package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/server/policy"
)

const policyHelp = `A policy says who may do what. It is a file of rules in TOML: policy.toml in the
server's directory, or what "file" under [policy] in server.toml names. The first rule that matches
decides; what none matches is denied. Without a policy everybody who is let in may
reach whatever "allow" in server.toml does not deny; with one, both have to allow it.

  zone = "Europe/Berlin"            # of days and hours; UTC if there is none

  [groups]                          # beside those that users are in already
  partners = ["acme", "widgets"]

  [lists]                           # of names and networks, from files
  ads = "ads.hosts"

  [[rule]]
  name = "no advertisements"
  lists = ["ads"]
  then = "deny"

  [[rule]]
  name = "partners, in office hours"
  groups = ["partners"]
  names = [".example.com", "!internal.example.com"]
  ports = ["443", "8000-8100"]
  days = ["mon-fri"]
  hours = ["08:00-18:00"]
  protection = ["tls", "wireguard"]
  then = "allow"

  [[expect]]                        # an example; a policy that gets it wrong is refused
  user = "acme"
  to = "www.example.com:443"
  at = 2026-07-01T09:30:00+02:00
  protection = ["tls"]
  outcome = "allow"

A rule matches if all its clauses do, and a clause if one of its words does. A ! before
a word makes it an exception. The clauses:

  users, groups, devices   who asks
  from                     networks that he comes from
  doors                    a door's address as in server.toml, session or wireguard
  methods                  device, guest, password, gssapi, certificate, ike, network
  protection               of the path: tls, wireguard, gss-integrity, gss-confidentiality,
                           ipsec, ipsec:aes-gcm, ipsec:aes-gcm-128 and other ciphers of
                           ESP, ipsec:stated (by protected_networks in server.toml), none
  ciphers                  of the path, as TLS calls them
  dialects                 socks4, socks4a, socks5, socks6, http-connect, http,
                           wireguard, direct
  commands                 connect, bind, associate (UDP), resolve, ping
  asked                    name or address: what was asked for
  names                    www.example.com; .example.com for that and all below it;
                           * and ? within a label. The name that was asked for counts.
  networks                 192.0.2.0/24, or one address. The address that is dialled counts.
  ports                    443, or 8000-8100
  protocols                http, rtsp, ssh and others, or @media and other groups: what is
                           spoken, on whatever port
  signs                    other-host: another host is named than was asked for;
                           misplaced: the port is another protocol's; doubtful; none
  lists                    of the table [lists]
  days, hours, zone        mon-fri, 22:00-06:00
  when                     an expression, such as: port > 1023 && user != "bob"
                           (https://expr-lang.org/docs/language-definition)

A rule that allows may limit what it allows:

  rate_up, rate_down       what its flows have for sure together: 1 Mbit/s
  ceiling_up, ceiling_down what they have at most
  quota_per_day            of each user: 10 GB; also quota_per_month
  max_flows                of each user at once: 20
  idle, total              end a flow that nothing passes for, and any flow: 5m, 8h
  udp_filtering            which datagrams of where an app may send to are taken, in place of
                           "filtering" in server.toml: endpoint-independent (all),
                           address-dependent (from where it has sent to),
                           address-and-port-dependent
  record                   how much of them adit audit knows: full, which is the default;
                           summary, all but the name and address of where they go; none,
                           nothing. What is refused is on record whatever it says.
  require_ipsec            true: while IPsec does not protect the path to the server, nothing
                           passes. What is asked for then, is refused, and what is open
                           stands still until it is protected again.
  patience                 for how long, before it is reset: 30s, which is the default

Where a rule asks what is spoken, the server connects and waits for the first bytes, 300 ms
at most, before it passes anything on. A datagram goes by what has been said between the
program and that destination so far, itself included.

Somebody else may have a say, too: what the rules allow is asked of the decider that
[decider] in server.toml names, if there is one, and its no is final.

Guests and SOCKS 6 programs that ask the server for names need a rule that allows
resolve; ping and bind have no port.

A running server takes over what changes in the file and its lists within two seconds
or so, once nobody has written to them for a second; with "watch = false" under [policy] only
at adit policy apply and SIGHUP. A policy that is wrong takes the place of none. What is
open is judged again, and ends if it may not be any more.`

func newPolicy(e env) *cobra.Command {
	return group("policy", "Say who may do what", policyHelp, newPolicyTest(e), newPolicyDiff(e), newPolicyExport(e), newPolicyApply(e), newPolicyServe(e))
}

func newPolicyTest(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	c := &cobra.Command{
		Use:   "test [FILE]",
		Short: "Say whether a policy is right, and does what its examples say",
		Long: `Read a policy and decide the examples in it. Without FILE it is that of the server's
directory. Nothing is changed. The exit code is 1 if anything is wrong.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := policyOf(&d, args)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "ok: %s, %s as expected\n", count(len(p.Rules()), "rule"), count(p.Expectations(), "example"))
			return err
		},
	}
	d.add(c)
	return c
}

// policyOf reads the policy in a file, or that of a server.
func policyOf(d *dirFlag, files []string) (*policy.Policy, error) {
	if len(files) > 0 {
		return readPolicy(files[0])
	}
	dir, err := d.open()
	if err != nil {
		return nil, err
	}
	_, p, err := policyIn(dir)
	return p, err
}

// policyIn reads the policy of the server in a directory, and gives what server.toml names.
func policyIn(dir string) (named string, p *policy.Policy, err error) {
	cfg := defaultServerConfig()
	if err := loadConfig(dir, serverKind, &cfg); err != nil {
		return "", nil, err
	}
	path, err := policyPath(dir, cfg.Policy.File)
	if err != nil {
		return "", nil, hint(err, "write policy.toml in %s; see adit policy --help", dir)
	}
	p, err = readPolicy(path)
	return cfg.Policy.File, p, err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func newPolicyApply(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	c := &cobra.Command{
		Use:   "apply",
		Short: "Have the running server take over its policy",
		Long: `Have the server that runs in a directory read its policy again, and nothing else. If
anything is wrong with it, the server keeps the one that it has, and the exit code
is 1. Flows that the new policy forbids end within two seconds.`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := d.open()
			if err != nil {
				return err
			}
			// What is wrong with it is said here, with all hints.
			named, _, err := policyIn(dir)
			if err != nil {
				return err
			}
			rules, err := applyPolicy(c.Context(), dir, named)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "applied: %s\n", count(rules, "rule"))
			return err
		},
	}
	d.add(c)
	return recorded(c, &d)
}

// policyAnswer is what a running server says of a policy that it was to take over.
type policyAnswer struct {
	Rules int    `json:"rules"`
	Error string `json:"error,omitempty"`
}

// applyPolicy has the server that runs in a directory take over the policy that
// server.toml names by now, and gives how many rules that has.
func applyPolicy(ctx context.Context, dir, named string) (rules int, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	var a policyAnswer
	err = askAt(ctx, filepath.Join(dir, socketFile), "POST /policy", []byte(named), &a)
	switch {
	case errors.Is(err, errNotRunning):
		return 0, hint(fmt.Errorf("no server runs in %s", dir), "it will read the policy when it starts: adit server run --dir %s", dir)
	case err != nil:
		return 0, err
	case a.Error != "":
		return 0, errors.New(a.Error)
	}
	return a.Rules, nil
}

// maxPolicyName bounds what server.toml names, in bytes.
const maxPolicyName = 4 << 10

// answerPolicy takes over what has changed in the policy. Who asks says what server.toml
// names by now.
func (p *serverProcess) answerPolicy(w http.ResponseWriter, r *http.Request) {
	named, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPolicyName))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	cfg := p.rules.configured()
	cfg.File = string(named)
	rules, err := p.renewPolicy(r.Context(), cfg)
	if err != nil {
		reply(w, policyAnswer{Error: err.Error()})
		return
	}
	reply(w, policyAnswer{Rules: len(rules.Rules())})
}

// renewPolicy takes over what has changed in the policy, and logs what has come of it.
func (p *serverProcess) renewPolicy(ctx context.Context, cfg policyConfig) (*policy.Policy, error) {
	rules, err := p.rules.renew(cfg, p.server)
	if err != nil {
		p.log.Error("policy refused, the old one stays", "error", err)
		return nil, err
	}
	p.log.Info("policy applied", "rules", len(rules.Rules()))
	p.tellElders(ctx)
	return rules, nil
}

// tellElders has older processes, which sessions still go on in, take over the policy.
func (p *serverProcess) tellElders(ctx context.Context) {
	if p.elders == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	named := []byte(p.rules.configured().File)
	var telling sync.WaitGroup
	for _, socket := range p.elders.sockets() {
		telling.Go(func() {
			var a policyAnswer
			err := askAt(ctx, socket, "POST /policy", named, &a)
			if err == nil && a.Error != "" {
				err = errors.New(a.Error)
			}
			if err != nil && !dead(err) {
				p.log.Error("an older process keeps its policy", "error", err)
			}
		})
	}
	telling.Wait()
}

// policy looks whether a server's rules are right.
func (k *checker) policy(dir string, cfg serverConfig) {
	path, err := policyPath(dir, cfg.Policy.File)
	if errors.Is(err, errNoPolicy) {
		k.say("policy", "none: whoever is let in may reach whatever allow does not deny", nil)
		return
	}
	p, err := readPolicy(path)
	if err != nil {
		k.say("policy", "", err)
		return
	}
	k.say("policy", fmt.Sprintf("%s in %s, %s as expected", count(len(p.Rules()), "rule"), filepath.Base(path), count(p.Expectations(), "example")), nil)
}
