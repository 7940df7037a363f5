package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/users"
)

const serverRunHelp = `Run the exit until SIGINT or SIGTERM, and then wait for streams to end; a second
signal ends it at once. SIGHUP reads server.toml and the certificate again.

When devices can come in, it prints a line that begins with "ready" to standard error.`

func newServerRun(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	var flags logFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the exit",
		Long:  serverRunHelp,
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := d.open()
			if err != nil {
				return err
			}
			return runServer(c.Context(), serverOptions{dir: dir, flags: flags, stderr: e.stderr})
		},
	}
	d.add(c)
	flags.add(c)
	return c
}

// serverOptions says how to run a server beside what its directory says.
type serverOptions struct {
	dir    string
	flags  logFlags
	stderr io.Writer // gets the log, and the line "ready …"

	listeners []net.Listener   // nil: those that the config names
	own       []netip.AddrPort // more of adit's own ports, which are no targets
	started   func()           // nil: the line "ready …"
}

// serverProcess is a running server.
type serverProcess struct {
	serverOptions
	cfg    serverConfig
	log    journal
	since  time.Time
	key    *keys.Server
	exit   liveExit
	site   liveSite
	cert   liveCertificate
	server *server.Server
}

// runServer runs a server until ctx ends and its streams have ended.
func runServer(ctx context.Context, o serverOptions) (err error) {
	p := &serverProcess{serverOptions: o, cfg: defaultServerConfig(), since: time.Now()}
	if err := p.load(&p.cfg); err != nil {
		return err
	}
	p.log = newJournal(o.stderr, p.cfg.Log)
	admin, err := openAdmin(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admin.Close()) }()
	if p.key, err = keys.LoadServer(filepath.Join(o.dir, serverKeyFile)); err != nil {
		return err
	}
	store, err := users.Open(ctx, filepath.Join(o.dir, storeFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if p.listeners == nil {
		if p.listeners, err = listenMultipath(ctx, p.cfg.Listen, p.cfg.MPTCP); err != nil {
			return err
		}
	}
	defer closeAll(p.listeners)
	if err := p.apply(p.cfg); err != nil {
		return err
	}
	p.server = server.New(server.Config{
		Users:          store,
		Relay:          &p.exit,
		Sessions:       p.cfg.Limits.Sessions,
		SessionStreams: p.cfg.Limits.StreamsPerSession,
		UserStreams:    p.cfg.Limits.StreamsPerUser,
		Grace:          graceOf(p.cfg),
		ReplayMemory:   int64(p.cfg.Limits.ReplayMemory) << 20,
		Log:            p.log.Logger,
	})
	return p.process(admin).run(ctx)
}

// graceOf is a config's grace as package server has it, where 0 is the default.
func graceOf(cfg serverConfig) time.Duration { return cmp.Or(cfg.Grace.Duration, -1) }

// process lists what the server consists of.
func (p *serverProcess) process(a *admin) *process {
	web := &tlslink.Server{GetCertificate: p.cert.get, Site: p.site.handler(), Log: p.log.Logger}
	parts := []func(context.Context) error{
		p.server.Serve,
		func(ctx context.Context) error { return a.serve(ctx, p.report) },
	}
	for _, ln := range p.listeners {
		parts = append(parts, func(ctx context.Context) error { return web.Serve(ctx, ln, admitAt(p.server)) })
	}
	return &process{
		log:   p.log,
		parts: parts,
		// Whoever connects from now on will be served.
		ready:   func(context.Context) error { return nil },
		started: p.announce,
		reload:  p.reload,
		// The web site goes on meanwhile, and devices are told to come back later.
		drain: func(ctx context.Context) {
			if err := p.server.Drain(ctx); err != nil {
				p.log.Warn("streams are cut off", "reason", err)
			}
		},
		limit: func() time.Duration { return p.cfg.Drain.Duration },
	}
}

func (p *serverProcess) announce() {
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

// reload takes over what can change while the server runs. It is not called
// concurrently.
func (p *serverProcess) reload() error {
	cfg := defaultServerConfig()
	if err := p.load(&cfg); err != nil {
		return err
	}
	for key, same := range map[string]bool{
		"listen":     slices.Equal(cfg.Listen, p.cfg.Listen),
		"mptcp":      cfg.MPTCP == p.cfg.MPTCP,
		"limits":     cfg.Limits == p.cfg.Limits,
		"site":       cfg.Site.builtIn() == p.cfg.Site.builtIn(),
		"log.format": cfg.Log.Format == p.cfg.Log.Format,
	} {
		if !same {
			p.log.Warn("this change needs a restart", "key", key)
		}
	}
	cfg.Listen, cfg.MPTCP, cfg.Limits, cfg.Log.Format = p.cfg.Listen, p.cfg.MPTCP, p.cfg.Limits, p.cfg.Log.Format
	if cfg.Site.builtIn() != p.cfg.Site.builtIn() {
		cfg.Site = p.cfg.Site
	}
	return p.apply(cfg)
}

// apply makes a config the one that new connections go by. If it fails, all is
// as it was.
func (p *serverProcess) apply(cfg serverConfig) error {
	allow, err := server.ParseAllow(cfg.Allow)
	if err != nil {
		return err
	}
	cert, err := loadCertificate(cfg, p.dir, p.key)
	if err != nil {
		return err
	}
	site, err := newSite(cfg.Site, p.log.Logger)
	if err != nil {
		return err
	}
	p.cert.Store(cert)
	p.site.set(site)
	p.exit.Store(&server.Exit{
		Allow: allow,
		Own:   append(ownPorts(p.listeners), p.own...),
	})
	p.log.set(cfg.Log)
	if p.server != nil {
		p.server.SetGrace(graceOf(cfg))
	}
	p.cfg = cfg
	return nil
}

func (p *serverProcess) report() any {
	r := newReport(serverKind, p.since)
	r.Server = &serverReport{Listen: addresses(p.listeners), Sessions: reportSessions(p.server.Status())}
	return r
}

// listen opens all listeners, or none.
func listen(ctx context.Context, on []string) ([]net.Listener, error) {
	return listenMultipath(ctx, on, false)
}

// listenMultipath does the same. If it may, it lets whoever connects choose
// Multipath TCP, where this system has it.
func listenMultipath(ctx context.Context, on []string, may bool) ([]net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(may)
	var all []net.Listener
	for _, address := range on {
		ln, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			closeAll(all)
			return nil, listenHint(err, address)
		}
		all = append(all, ln)
	}
	return all, nil
}

func closeAll(listeners []net.Listener) {
	for _, ln := range listeners {
		_ = ln.Close() // whoever served it may have closed it
	}
}

func addresses(listeners []net.Listener) []string {
	all := make([]string, len(listeners))
	for i, ln := range listeners {
		all[i] = ln.Addr().String()
	}
	return all
}

// ownPorts gives the addresses that must not be targets.
func ownPorts(listeners []net.Listener) []netip.AddrPort {
	var own []netip.AddrPort
	for _, ln := range listeners {
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
			own = append(own, tcp.AddrPort())
		}
	}
	return own
}
