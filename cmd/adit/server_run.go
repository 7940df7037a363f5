package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/crypto/ipsec"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/users"
)

const serverRunHelp = `Run the exit until SIGINT or SIGTERM, and then wait for streams to end; a second
signal ends it at once. SIGHUP reads server.toml, the policy and the certificate
again. congestion in server.toml names the kernel's algorithm that says how fast it
sends to devices.

When devices can come in, it prints a line that begins with "ready" to standard error.

To run another version or another config without losing a connection, see
adit server upgrade. Listeners that a systemd socket unit passes on are used; "listen" in
server.toml must name their addresses, too.`

func newServerRun(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	var flags logFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the exit",
		Long:  serverRunHelp,
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			before, err := findPredecessor()
			if err != nil {
				return err
			}
			err = startServer(c.Context(), &d, serverOptions{flags: flags, stderr: e.stderr, before: before})
			before.fail(err)
			return err
		},
	}
	d.add(c)
	flags.add(c)
	return c
}

// startServer runs the server of a directory in a process of its own.
func startServer(ctx context.Context, d *dirFlag, o serverOptions) (err error) {
	if o.dir, err = d.open(); err != nil {
		return err
	}
	if o.command, err = ownCommand(); err != nil {
		return err
	}
	return runServer(ctx, o)
}

// serverOptions says how to run a server beside what its directory says.
type serverOptions struct {
	dir    string
	flags  logFlags
	stderr io.Writer // gets the log, and the line "ready …"

	listeners []net.Listener   // nil: those that the config names, and its doors'
	own       []netip.AddrPort // more of adit's own ports, which are no targets
	started   func()           // nil: the line "ready …"

	before  *predecessor // nil: this is an ordinary start
	command *commandLine // starts a successor; nil: there can be none
}

// serverProcess is a running server.
type serverProcess struct {
	serverOptions
	cfg    serverConfig
	log    journal
	since  time.Time
	key    *keys.Server
	exit   liveExit
	rules  liveRules
	asks   *decide.Decider
	site   liveSite
	cert   liveCertificate
	server *server.Server
	store  *users.Store
	paths  *ipsec.Paths
	trails *trails       // nil without WireGuard
	audit  *audit.Writer // nil: nothing is recorded

	wireGuard wireGuard

	doors         []*serverDoor
	doorListeners []net.Listener // in the config's order

	ipsecListeners []net.Listener // one, or none

	metricsListeners  []net.Listener // one, or none
	serving, draining atomic.Bool

	lock       *os.File // of the directory
	elders     *elders
	succession *succession
}

// runServer runs a server until ctx ends and its streams have ended.
func runServer(ctx context.Context, o serverOptions) (err error) {
	p := &serverProcess{serverOptions: o, cfg: defaultServerConfig(), since: time.Now(), rules: liveRules{dir: o.dir, tried: make(sources)}, succession: newSuccession()}
	if err := p.load(&p.cfg); err != nil {
		return err
	}
	if err := p.cfg.Congestion.try(); err != nil {
		return err
	}
	p.log = newJournal(o.stderr, p.cfg.Log)
	p.asks = decide.New(p.log.Logger)
	defer p.asks.Close()
	if p.lock, err = p.before.claim(o.dir); err != nil {
		return err
	}
	defer p.lock.Close() // before that, the admin socket is closed
	if p.key, err = keys.LoadServer(filepath.Join(o.dir, serverKeyFile)); err != nil {
		return err
	}
	if p.store, err = users.Open(ctx, filepath.Join(o.dir, storeFile)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.store.Close()) }()
	if p.cfg.Audit.Mode != auditOff {
		if p.audit, err = p.openAudit(ctx); err != nil {
			return hint(err, "put it right; or have nothing recorded: mode = \"off\" under [audit] in server.toml")
		}
		defer func() { err = errors.Join(err, p.audit.Close()) }()
		p.note("the server runs, adit " + version())
	}
	return p.run(ctx)
}

// run runs a server whose directory is open: it listens, and sets up what that is for.
func (p *serverProcess) run(ctx context.Context) (err error) {
	if err := p.listen(ctx); err != nil {
		return err
	}
	defer func() { closeAll(p.allListeners()) }()
	if p.wireGuard, err = p.newWireGuard(); err != nil {
		return err
	}
	if err := p.apply(p.cfg); err != nil {
		return err
	}
	if p.server, err = p.newServer(); err != nil {
		return err
	}
	p.paths = &ipsec.Paths{Detector: p.cfg.IPsec.below().detector(), Changed: p.server.PathsChanged}
	p.openWireGuard()
	if err := p.openDoors(); err != nil {
		return err
	}
	return p.takeOver(ctx)
}

// newServer makes the server that the config asks for, of what has been opened and applied.
func (p *serverProcess) newServer() (*server.Server, error) {
	login, err := p.cfg.Login.login(p.dir)
	if err != nil {
		return nil, err
	}
	return server.New(server.Config{
		Users:          p.store,
		Relay:          &p.exit,
		Policy:         p.rules.current,
		Decider:        p.asks,
		Sessions:       p.cfg.Limits.Sessions,
		SessionStreams: p.cfg.Limits.StreamsPerSession,
		UserStreams:    p.cfg.Limits.StreamsPerUser,
		UserBinds:      p.cfg.Bind.PerUser,
		Grace:          graceOf(p.cfg),
		ReplayMemory:   int64(p.cfg.Limits.ReplayMemory) << 20,
		Bandwidth:      p.cfg.Bandwidth.bandwidth(),
		Audit:          p.audit,
		Elsewhere:      p.elsewhere,
		Login:          login,
		WireGuard:      p.wireGuard.public(),
		WireGuardPort:  p.wireGuard.at.Port(),
		IPsec:          p.ipsecAnnounced(),
		Key:            p.key.Pin(),
		Log:            p.log.Logger,
	}), nil
}

// graceOf is a config's grace as package server has it, where 0 is the default.
func graceOf(cfg serverConfig) time.Duration { return cmp.Or(cfg.Grace.Duration, -1) }

// takeOver runs the server once its predecessor, if there is one, lets it.
func (p *serverProcess) takeOver(ctx context.Context) (err error) {
	if err := p.before.prepared(); err != nil {
		return err
	}
	admin, err := listenAdmin(p.dir, p.lock)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admin.Close()) }()
	p.elders, err = followElders(ctx, p.dir)
	defer p.elders.Close()
	switch {
	case err != nil && p.before != nil:
		return err
	case err != nil:
		p.log.Warn("sessions of older processes cannot go on", "error", err)
	}
	if p.rules.any() {
		p.tellElders(ctx)
	}
	return p.process(admin).run(ctx)
}

// process lists what the server consists of.
func (p *serverProcess) process(a *admin) *process {
	web := &tlslink.Server{GetCertificate: p.cert.get, Site: p.site.handler(), Log: p.log.Logger}
	parts := []func(context.Context) error{
		p.server.Serve,
		p.elders.serve,
		func(ctx context.Context) error { p.paths.Serve(ctx); return nil },
		p.serveWireGuard,
		p.watchPolicy,
		func(ctx context.Context) error { return a.serve(ctx, p.report, p.routes(ctx)...) },
	}
	if p.audit != nil {
		parts = append(parts, p.audit.Serve)
	}
	if p.command != nil { // the process is its own
		parts = append(parts, func(ctx context.Context) error { return giveBack(ctx, serverRoom, func(memory) {}) }, useFewProcessors)
	}
	for _, ln := range p.listeners {
		ln = p.cfg.Congestion.listener(ln)
		if p.cfg.RequireIPsec {
			ln = p.guard(ln)
		}
		parts = append(parts, func(ctx context.Context) error { return web.Serve(ctx, ln, admitAt(p)) })
	}
	for _, ln := range p.ipsecListeners {
		ln = p.cfg.Congestion.listener(ln)
		parts = append(parts, func(ctx context.Context) error { return p.serveIPsec(ctx, ln) })
	}
	for _, d := range p.doors {
		parts = append(parts, d.serve)
	}
	for _, ln := range p.metricsListeners {
		parts = append(parts, func(ctx context.Context) error { return p.serveMetrics(ctx, ln) })
	}
	return &process{
		log:   p.log,
		parts: parts,
		// Whoever connects from now on will be served.
		ready:     func(context.Context) error { return p.before.serving() },
		started:   p.announce,
		reload:    p.reload,
		drain:     p.drain,
		limit:     func() time.Duration { return p.cfg.Drain.Duration },
		succeeded: p.succession.done,
		retire:    p.retire,
	}
}

// drain waits for streams to end. The web site goes on meanwhile, and devices are
// told to come back later.
func (p *serverProcess) drain(ctx context.Context) {
	p.draining.Store(true)
	closeAll(p.doorListeners)
	if err := p.server.Drain(ctx); err != nil {
		p.log.Warn("streams are cut off", "reason", err)
	}
	p.drainDoors(ctx)
}

func (p *serverProcess) announce() {
	p.serving.Store(true)
	if p.started != nil {
		p.started()
		return
	}
	fmt.Fprintln(p.stderr, "ready server on "+strings.Join(addresses(p.listeners), ", "))
}

// load reads the config as the command line's flags change it.
func (p *serverProcess) load(cfg *serverConfig) error {
	if err := loadConfig(p.dir, serverKind, cfg); err != nil {
		return err
	}
	log, err := p.flags.over(cfg.Log)
	cfg.Log = log
	return err
}

// openAudit opens the records. A lenient server goes on without them, and they are
// tried again.
func (p *serverProcess) openAudit(ctx context.Context) (*audit.Writer, error) {
	cfg := p.cfg.writer(p.dir, p.log.Logger)
	w, err := audit.Open(ctx, cfg)
	if err == nil || cfg.Strict || ctx.Err() != nil {
		return w, err
	}
	p.log.Error("nothing is recorded until the records can be opened, which is tried every second", "error", err)
	return audit.New(cfg), nil
}

// note leaves a record of what the server itself has done.
func (p *serverProcess) note(what string) {
	if p.audit == nil {
		return
	}
	// The Writer counts what it cannot take.
	_ = p.audit.Note(audit.Record{Kind: audit.Act, Begin: time.Now(), What: what})
}

func (p *serverProcess) report() any {
	r := newReport(serverKind, p.since)
	r.Server = &serverReport{Listen: addresses(p.listeners), Totals: totalsReport(p.server.Totals()), Sessions: reportSessions(p.server.Status())}
	r.Server.Doors = reportDoors(p.doors)
	r.Server.Metrics = strings.Join(addresses(p.metricsListeners), "")
	if p.audit != nil {
		if err := p.audit.Failed(); err != nil {
			r.Server.Audit = err.Error()
		}
	}
	if err := p.asks.Failing(); err != nil {
		r.Server.Decider = err.Error()
	}
	if p.wireGuard.host != nil {
		r.Server.Guests = reportGuests(p.wireGuard.host.guests.Here())
	}
	if !p.succession.isLeaving() {
		r.Server.Older = p.elders.report()
	}
	return r
}
