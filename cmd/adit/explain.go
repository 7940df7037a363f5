package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/users"
)

const explainHelp = `Say what a server would make of a request, which rule decides, and why those before it
do not. A decider is asked, if server.toml names one. Nothing is sent to the target, but
its name is looked up unless --address says what address it has.

COMMAND is connect, bind, associate, resolve or ping. What the flags do not say is taken as
it is for a program behind a client of adit's: it comes by session, with a device,
over TLS, and asks in SOCKS 6.

The exit code is 0 if the request would be allowed, and 1 if not.`

// explained is what adit explain is asked.
type explained struct {
	dir     dirFlag
	file    string
	who     policy.Who
	request policy.Request
	from    string
	address string
	at      string
}

func newExplain(e env) *cobra.Command {
	x := explained{dir: dirFlag{kind: serverKind}}
	c := &cobra.Command{
		Use:     "explain COMMAND HOST:PORT",
		Short:   "Say which rule decides a request, and why",
		Long:    explainHelp,
		Example: "  adit explain --user alice --from 192.0.2.7 connect media.example.com:554",
		Args:    exactly("COMMAND", "HOST:PORT"),
		RunE: func(c *cobra.Command, args []string) error {
			return x.run(c.Context(), e.stdout, args[0], args[1])
		},
	}
	x.dir.add(c)
	f := c.Flags()
	f.StringVar(&x.file, "policy", "", "`file` with the rules, which alone decide: not the server's groups, nor what it denies")
	f.StringVar(&x.who.User, "user", "", "`name` of the user")
	f.StringSliceVar(&x.who.Groups, "group", nil, "`name` of a group that the user is in, beside those that the server knows; may be repeated")
	f.StringVar(&x.who.Device, "device", "", "`name` of the device")
	f.StringVar(&x.from, "from", "", "`address` that the request comes from")
	f.StringVar(&x.who.Door, "door", "session", "`address` of the server's door, session or wireguard")
	f.StringVar(&x.who.Method, "method", "device", "`word` for how the user has proved who he is")
	f.StringSliceVar(&x.who.Protection, "protection", []string{"tls"}, "`word` for what protects the path, such as ipsec:aes-gcm-128; may be repeated")
	f.StringVar(&x.who.Cipher, "cipher", "", "`name` of the path's cipher")
	f.StringVar(&x.request.Dialect, "dialect", "socks6", "`word` for the protocol of the request")
	f.StringVar(&x.request.Protocol, "protocol", "", "`name` of the application protocol")
	f.StringVar(&x.address, "address", "", "`address` that the name has")
	f.StringVar(&x.at, "at", "", "`time` of the request, such as 2026-07-01T09:30:00+02:00 (default now)")
	return c
}

func (x *explained) run(ctx context.Context, out io.Writer, command, target string) error {
	if err := x.read(command, target); err != nil {
		return err
	}
	o, err := x.open(ctx)
	if err != nil {
		return err
	}
	if o.decider != nil {
		defer o.decider.Close()
	}
	allowed, err := x.say(ctx, out, o)
	if err == nil && !allowed {
		err = exitError(exitFailed)
	}
	return err
}

// read makes a request of the command line.
func (x *explained) read(command, target string) (err error) {
	for _, word := range x.who.Protection {
		if _, err := policy.ParseProtection(word); err != nil {
			return hint(usageError{fmt.Errorf("--protection: %w", err)}, "adit policy --help says them all")
		}
	}
	commands := []string{"connect", "bind", "associate", "resolve", "ping"}
	if !slices.Contains(commands, command) {
		return hint(usageError{fmt.Errorf("there is no command %q", command)}, "the commands are %s", strings.Join(commands, ", "))
	}
	q := &x.request
	q.Command, q.Time = command, time.Now()
	if q.Name, q.Addr, q.Port, err = policy.ParseTarget(target); err != nil {
		return hint(usageError{err}, "write it as example.com:443 or [2001:db8::1]:443")
	}
	if command == "bind" || command == "ping" {
		q.Port = 0 // as there is none
	}
	address := func(flag, text string, to *netip.Addr) {
		if text == "" || err != nil {
			return
		}
		if *to, err = netip.ParseAddr(text); err != nil {
			err = hint(usageError{fmt.Errorf("--%s: %q is no IP address", flag, text)}, "write it as 192.0.2.7 or 2001:db8::7")
		}
	}
	address("from", x.from, &x.who.From)
	address("address", x.address, &q.Addr)
	if x.at != "" && err == nil {
		if q.Time, err = time.Parse(time.RFC3339, x.at); err != nil {
			err = hint(usageError{fmt.Errorf("--at: %q is no time", x.at)}, "write it as 2026-07-01T09:30:00+02:00")
		}
	}
	return err
}

// opinions are those that count at a server. The first no is the last word.
type opinions struct {
	exit    *server.Exit    // nil: no server is known
	rules   *policy.Policy  // nil: there are none
	decider *decide.Decider // nil: there is none
}

// open reads the rules, and makes an exit of what the server denies and whom it asks for
// names.
func (x *explained) open(ctx context.Context) (o opinions, err error) {
	if x.file != "" {
		o.rules, err = readPolicy(x.file)
		return o, err
	}
	dir, err := x.dir.open()
	if err != nil {
		return o, err
	}
	cfg := defaultServerConfig()
	if err := loadConfig(dir, serverKind, &cfg); err != nil {
		return o, err
	}
	if o.exit, err = plainExit(cfg); err != nil {
		return o, err
	}
	if err := x.enquire(ctx, filepath.Join(dir, storeFile)); err != nil {
		return o, err
	}
	path, err := policyPath(dir, cfg.Policy.File)
	if err == nil {
		o.rules, err = readPolicy(path)
	}
	if err != nil && !errors.Is(err, errNoPolicy) {
		return o, err
	}
	o.decider, err = newDecider(dir, cfg.Decider)
	return o, err
}

// plainExit is an exit that judges and looks up as the config says, and as a server that
// listens where it says.
func plainExit(cfg serverConfig) (*server.Exit, error) {
	e := &server.Exit{Steer: cfg.Exit.steer()}
	var err error
	if e.Allow, err = server.ParseAllow(cfg.Allow); err != nil {
		return nil, err
	}
	if e.Upstream, err = cfg.DNS.upstream(); err != nil {
		return nil, err
	}
	listen := slices.Concat(cfg.Listen, doorAddresses(cfg.Doors), cfg.Metrics.addresses(), cfg.IPsec.addresses())
	if cfg.WireGuard.Listen != "" {
		listen = append(listen, cfg.WireGuard.Listen)
	}
	for _, address := range listen {
		at, err := ownPort(address)
		if err != nil {
			return nil, err
		}
		if at.Port() != 0 {
			e.Own = append(e.Own, at)
		}
	}
	return e, nil
}

// enquire adds the groups that the store has the user in.
func (x *explained) enquire(ctx context.Context, path string) error {
	if x.who.User == "" {
		return nil
	}
	store, err := users.Open(ctx, path)
	if err != nil {
		return err
	}
	user, err := store.User(ctx, x.who.User)
	if errors.Is(err, users.ErrUserUnknown) {
		err = hint(err, "adit user list names those there are")
	}
	x.who.Groups = append(x.who.Groups, user.Groups...)
	return errors.Join(err, store.Close())
}

// say prints the decision. A name is allowed if one of its addresses is.
func (x *explained) say(ctx context.Context, out io.Writer, o opinions) (allowed bool, err error) {
	q := x.request
	if o.rules != nil && !q.Addr.IsValid() {
		e := o.rules.For(x.who).Explain(q)
		// A name that may be looked up has no address that could be judged.
		allowed = e.Outcome == policy.Allow || q.Command == "resolve" && e.Outcome == policy.NeedsAddress
		settled := e.Outcome != policy.NeedsAddress && (o.decider == nil || e.Outcome != policy.Allow) // and the decider wants the address
		if settled || q.Command == "resolve" {
			printExplanation(out, "", e)
			return allowed && x.sayDecider(out, o.decider, q), nil
		}
	}
	addrs := []netip.Addr{q.Addr}
	if !q.Addr.IsValid() {
		if addrs, err = cmp.Or(o.exit, &server.Exit{}).Addresses(ctx, q.Name); err != nil {
			return false, hint(fmt.Errorf("look up %s: %w", q.Name, err), "say with --address what address it has")
		}
	}
	for _, a := range addrs {
		if x.sayOf(out, o, a.Unmap()) {
			allowed = true
		}
	}
	return allowed, nil
}

// sayOf prints the decision about one address.
func (x *explained) sayOf(out io.Writer, o opinions, a netip.Addr) (allowed bool) {
	if x.request.Command == "associate" && server.KeepsIPsecApart(x.request.Port) {
		fmt.Fprintf(out, "deny: %s: datagrams of IPsec are not carried\n", a)
		return false
	}
	if o.exit != nil {
		if err := o.exit.Judge(netip.AddrPortFrom(a, x.request.Port)); err != nil {
			fmt.Fprintf(out, "deny: %s: %v\n", a, err)
			return false
		}
	}
	if o.rules == nil {
		fmt.Fprintf(out, "allow: %s: there is no policy\n", a)
	}
	allowed = true
	q := x.request
	for _, q.Addr = range server.Judged(a) {
		if o.rules != nil {
			allowed = printExplanation(out, q.Addr.String(), o.rules.For(x.who).Explain(q)) && allowed
		}
	}
	for _, q.Addr = range server.Judged(a) {
		allowed = allowed && x.sayDecider(out, o.decider, q)
	}
	return allowed
}

// sayDecider asks the decider, if there is one, about what is allowed so far, and prints what
// it says.
func (x *explained) sayDecider(out io.Writer, d *decide.Decider, q policy.Request) (allowed bool) {
	if d == nil {
		return true
	}
	a := d.Decide(decide.Question{Who: x.who, Request: q})
	text, about := "", ""
	switch {
	case a.Err != nil:
		text = ": no answer: " + shown(a.Err)
	case a.Reason != "":
		text = ": " + a.Reason
	}
	if q.Addr.IsValid() {
		about = fmt.Sprintf(" (%s)", q.Addr)
	}
	fmt.Fprintf(out, "%s: decider %s%s%s\n", a.Outcome, d.Name(), text, about)
	return a.Outcome == policy.Allow || a.Outcome == policy.NeedsAddress
}

// printExplanation tells whether a request is allowed.
func printExplanation(out io.Writer, about string, e policy.Explanation) bool {
	if about != "" {
		about = " (" + about + ")"
	}
	fmt.Fprintf(out, "%s%s\n", e.Decision, about)
	for _, p := range e.Passed {
		fmt.Fprintf(out, "  %s\n", p)
	}
	return e.Outcome == policy.Allow
}
