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
	"reflect"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/ipsec"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/wglink"
)

const clientRunHelp = `Run the client until SIGINT or SIGTERM: it keeps a session with the server, and
lets apps in at its door, with SOCKS 4, 4a, 5, 6 and as an HTTP proxy on one port.
With early_reply under [door] in client.toml, apps need one round trip less for
targets at the ports that it names, and learn of a refusal by a reset. congestion
under [server] names the kernel's algorithm that says how fast it sends.
SIGHUP reads client.toml again.

When apps can come in and the server has let this device in, it prints a line that
begins with "ready" to standard error. If the server is out of reach it keeps trying,
and says so in its log.`

func newClientRun(e env) *cobra.Command {
	d := dirFlag{kind: clientKind}
	var flags logFlags
	var door string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the client",
		Long:  clientRunHelp,
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := d.open()
			if err != nil {
				return err
			}
			return runClient(c.Context(), clientOptions{dir: dir, flags: flags, door: door, lean: true, stderr: e.stderr})
		},
	}
	d.add(c)
	flags.add(c)
	c.Flags().StringVar(&door, "door", "", "`address` where apps come in (default from the config file)")
	return c
}

// clientOptions says how to run a client beside what its directory says.
type clientOptions struct {
	dir    string
	flags  logFlags
	door   string    // listen here instead of where the config says
	stderr io.Writer // gets the log, and the line "ready …"

	listener net.Listener // the door; nil: at the address that door or the config names
	private  bool         // no other command is to find this client
	lean     bool         // there is nothing else in this process
	started  func(*clientProcess)
}

// clientProcess is a running client.
type clientProcess struct {
	clientOptions
	cfg    clientConfig
	log    journal
	since  time.Time
	client *client.Client
	doors  []*doorListener
	way    doorReport

	wireGuard *wglink.Dialer // nil if it is not used
}

// runClient runs a client until ctx ends and its streams have ended.
func runClient(ctx context.Context, o clientOptions) (err error) {
	p := &clientProcess{clientOptions: o, cfg: defaultClientConfig(), since: time.Now()}
	if err := p.load(&p.cfg); err != nil {
		return err
	}
	if err := p.cfg.Server.Congestion.try(); err != nil {
		return err
	}
	p.log = newJournal(o.stderr, p.cfg.Log)
	var parts []func(context.Context) error
	if !o.private {
		admin, openErr := openAdmin(o.dir)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, admin.Close()) }()
		parts = append(parts, func(ctx context.Context) error { return admin.serve(ctx, p.report) })
	}
	device, err := keys.LoadDevice(filepath.Join(o.dir, deviceKeyFile))
	if err != nil {
		return err
	}
	paths := &ipsec.Paths{Detector: p.cfg.IPsec.detector()}
	if p.cfg.Server.watchesPaths() {
		parts = append(parts, func(ctx context.Context) error { paths.Serve(ctx); return nil })
	}
	where := newIPsecPlace(p.cfg.Server, filepath.Join(o.dir, ipsecPlaceFile))
	dials, wireGuard, err := dialCarriers(p.cfg.Server, paths, device, where, o.dir)
	if err != nil {
		return err
	}
	p.wireGuard = wireGuard
	last := len(dials) - 1
	p.client = client.New(client.Config{Better: dials[:last], Dial: dials[last], Device: device, Lanes: p.cfg.Lanes, Welcomed: where.hear, Log: p.log.Logger})
	parts = append(parts, func(ctx context.Context) error { return dialHint(p.client.Serve(ctx)) })
	if o.lean {
		parts = append(parts, stayLean, useFewProcessors)
	}
	door, err := p.openDoors(ctx)
	if err != nil {
		return err
	}
	for _, ln := range p.doors {
		defer ln.Close()
		parts = append(parts, func(ctx context.Context) error { return door.Serve(ctx, ln) })
	}
	return p.process(parts).run(ctx)
}

func (p *clientProcess) process(parts []func(context.Context) error) *process {
	return &process{
		log:   p.log,
		parts: parts,
		ready: func(ctx context.Context) error {
			if p.client.Ready(ctx) != nil {
				<-ctx.Done() // Serve says why there will never be a session
			}
			return nil
		},
		started: p.announce,
		reload:  p.reload,
		drain:   p.drain,
		limit:   func() time.Duration { return p.cfg.Drain.Duration },
	}
}

func (p *clientProcess) announce() {
	if p.started != nil {
		p.started(p)
		return
	}
	fmt.Fprintf(p.stderr, "ready door on %s, server %s\n", cmp.Or(p.way.Listen, p.way.Socket), p.cfg.Server.Address)
}

// load reads the config as the command line's flags change it.
func (p *clientProcess) load(cfg *clientConfig) error {
	if err := loadConfig(p.dir, clientKind, cfg); err != nil {
		return err
	}
	if p.clientOptions.door != "" {
		cfg.Door.Listen = p.clientOptions.door
		var wrong error
		cfg.Door.validate(func(key, what, todo string) {
			wrong = hint(usageError{fmt.Errorf("--door: %s", what)}, "%s", todo)
		})
		if wrong != nil {
			return wrong
		}
	}
	log, err := p.flags.over(cfg.Log)
	cfg.Log = log
	return err
}

// reload takes over what can change while the client runs. It is not called concurrently.
func (p *clientProcess) reload() error {
	cfg := defaultClientConfig()
	if err := p.load(&cfg); err != nil {
		return err
	}
	for key, same := range map[string]bool{
		"lanes":      cfg.Lanes == p.cfg.Lanes,
		"server":     reflect.DeepEqual(cfg.Server, p.cfg.Server),
		"door":       reflect.DeepEqual(cfg.Door, p.cfg.Door),
		"ipsec":      reflect.DeepEqual(cfg.IPsec, p.cfg.IPsec),
		"log.format": cfg.Log.Format == p.cfg.Log.Format,
	} {
		if !same {
			p.log.Warn("this change needs a restart", "key", key)
		}
	}
	p.log.set(cfg.Log)
	p.cfg.Drain, p.cfg.Log.Level = cfg.Drain, cfg.Log.Level
	return nil
}

// drainPoll is how often a client that drains looks whether its streams have
// ended. They do not tell, and people wait.
const drainPoll = 20 * time.Millisecond

// drain lets no more apps in, and waits for the streams of those that are in.
func (p *clientProcess) drain(ctx context.Context) {
	for _, ln := range p.doors {
		ln.stop()
	}
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for p.client.Status().Streams > 0 {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			p.log.Warn("streams are cut off", "reason", context.Cause(ctx))
			return
		}
	}
}

// below says what protects the path of the client's carrier.
func (p *clientProcess) below(st client.Status) []string {
	path := p.cfg.Server.path(st.Local, st.Remote)
	if st.Protection.Carrier == overWireGuard {
		path = p.cfg.Server.path(netip.AddrPort{}, p.wireGuard.Place())
		path.UDP = true
	}
	if !path.Remote.IsValid() {
		return nil
	}
	protection, err := p.cfg.IPsec.detector().Look(context.Background(), path)
	if err != nil {
		p.log.Debug("look at the path to the server", "error", err)
	}
	return ipsecWords(protection)
}

func (p *clientProcess) report() any {
	r := newReport(clientKind, p.since)
	st := p.client.Status()
	r.Client = reportClient(p.cfg.Server.Address, st, p.below(st), p.way)
	return r
}
