package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/users"
)

const demoHelp = `Run a server and a client on this machine, with keys that are thrown away at the end,
and check them through the client's door: a page, 64 MiB each way, a connection that
goes on although what carries it is cut, and targets that must be refused. Then stay
up, for your own programs to try it.

The demo's server allows loopback targets, as it is your own machine; a real one
does not unless it is told to. adit's own ports are refused all the same.`

// demoTimeout bounds how long the demo may take to get ready, and to check itself.
const demoTimeout = time.Minute

func newDemo(e env) *cobra.Command {
	var once bool
	var door string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Try adit on this machine alone: server, client and a check",
		Long:  demoHelp,
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if door != "" && (badListen(door) != "" || !loopback(door)) {
				return hint(usageError{fmt.Errorf("--door: %q is no loopback HOST:PORT", door)}, "--door %s", defaultDoor)
			}
			return runDemo(c.Context(), e, door, once)
		},
	}
	c.Flags().BoolVar(&once, "once", false, "end after the checks; exit with 0 if all is well, else with 1")
	c.Flags().StringVar(&door, "door", "", "loopback `address` where apps come in (default "+defaultDoor+", or a free port if that is taken)")
	return c
}

// demo is a server and a client in one process.
type demo struct {
	page   page
	stderr io.Writer
	dir    string
	server *cuttable
	door   net.Listener
	client *clientProcess // once it runs

	ended chan error // why the server or the client has ended
	stops []func()   // end them, each after those that were started before it
}

func runDemo(ctx context.Context, e env, door string, once bool) (err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "adit-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for throw-away keys: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{page: newPage(e), stderr: e.stderr, dir: dir, ended: make(chan error, 2)}
	d.page.title("adit demo: server and client on this machine, with throw-away keys")
	if err := d.listen(ctx, door); err != nil {
		return err
	}
	defer d.stop()
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := d.check(ctx); err != nil {
		return err
	}
	d.page.note("everything works, %.1f s after the start", time.Since(began).Seconds())
	if once {
		return nil
	}
	if err := d.suggest(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.ended:
		return err
	}
}

// listen opens the ports first, so that nobody else takes them meanwhile.
func (d *demo) listen(ctx context.Context, door string) error {
	servers, err := listen(ctx, []string{"127.0.0.1:0"})
	if err != nil {
		return err
	}
	at := door
	if at == "" {
		at = defaultDoor
	}
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", at)
	if door == "" && errors.Is(err, syscall.EADDRINUSE) {
		d.page.note("%s is taken, so the door is elsewhere", defaultDoor)
		ln, err = config.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		closeAll(servers)
		return listenHint(err, at)
	}
	d.server, d.door = &cuttable{Listener: servers[0]}, ln
	return nil
}

// start does what people do who set adit up: the code of the same commands, in
// the same order.
func (d *demo) start(ctx context.Context) error {
	var (
		serverDir = filepath.Join(d.dir, serverKind)
		clientDir = filepath.Join(d.dir, clientKind)
		quiet     = logFlags{Level: "error"} // the carrier will be cut
	)
	invite, err := d.makeServer(ctx, serverDir)
	if err != nil {
		closeAll([]net.Listener{d.server, d.door})
		return err
	}
	ready := make(chan *clientProcess, 1)
	d.run(ctx, func(ctx context.Context) error {
		return runServer(ctx, serverOptions{
			dir: serverDir, flags: quiet, stderr: d.stderr,
			listeners: []net.Listener{d.server},
			own:       ownPorts([]net.Listener{d.door}),
			started:   func() { ready <- nil },
		})
	})
	if _, err := d.wait(ctx, ready); err != nil {
		closeAll([]net.Listener{d.door})
		return err
	}
	d.page.row("server", "%s, which allows loopback targets", d.server.Addr())
	if err := joinServer(ctx, clientDir, invite, "demo"); err != nil {
		closeAll([]net.Listener{d.door})
		return err
	}
	d.page.row("invite", "used to enrol the device %q of the user %q", "demo", invite.Name)
	d.run(ctx, func(ctx context.Context) error {
		return runClient(ctx, clientOptions{
			dir: clientDir, flags: quiet, stderr: d.stderr,
			listener: d.door,
			started:  func(p *clientProcess) { ready <- p },
		})
	})
	d.client, err = d.wait(ctx, ready)
	if err != nil {
		return err
	}
	d.page.row("door", "%s, for %s", d.door.Addr(), admitted(d.client.way.Admission))
	return nil
}

// admitted says in words whom a door lets in.
func admitted(admission string) string {
	switch admission {
	case admitSameUser:
		return "your own programs"
	case admitPassword:
		return "programs that know the password"
	}
	return "every program on this machine"
}

// run runs a part in the background until d.stop. What tells the demo to end
// does not reach it at once: first the client lets go of its session, then the
// server ends.
func (d *demo) run(ctx context.Context, part func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.ended <- part(ctx)
	}()
	d.stops = append(d.stops, func() {
		cancel()
		<-done
	})
}

// stop ends all parts, the last one first, and waits for them.
func (d *demo) stop() {
	for _, stop := range slices.Backward(d.stops) {
		stop()
	}
}

// wait waits until a part is ready.
func (d *demo) wait(ctx context.Context, ready <-chan *clientProcess) (*clientProcess, error) {
	timeout := time.NewTimer(demoTimeout)
	defer timeout.Stop()
	select {
	case p := <-ready:
		return p, nil
	case err := <-d.ended:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timeout.C:
		return nil, fmt.Errorf("start the demo: not ready after %s", demoTimeout)
	}
}

// makeServer is adit server init, adit user add and adit invite.
func (d *demo) makeServer(ctx context.Context, dir string) (keys.Invite, error) {
	cfg := defaultServerConfig()
	cfg.Listen, cfg.Name, cfg.Allow = []string{d.server.Addr().String()}, "127.0.0.1", []string{"loopback"}
	if _, err := initServer(ctx, dir, cfg); err != nil {
		return keys.Invite{}, err
	}
	const user = "you"
	err := withStore(ctx, &dirFlag{kind: serverKind, path: dir}, func(ctx context.Context, s *users.Store) error {
		return s.AddUser(ctx, user)
	})
	if err != nil {
		return keys.Invite{}, err
	}
	uri, err := makeInvite(ctx, dir, inviteOrder{user: user, ttl: demoTimeout})
	if err != nil {
		return keys.Invite{}, err
	}
	return keys.ParseInvite(uri)
}

// suggest prints commands to paste.
func (d *demo) suggest() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find adit itself: %w", err)
	}
	way, err := d.client.way.way()
	if err != nil {
		return err
	}
	socksURL := way.url("socks5h")
	d.page.title("Try it, while this runs")
	d.page.row("curl", "curl -x %s https://example.org/", shellQuote(socksURL))
	d.page.row("browser", "chromium --user-data-dir=$(mktemp -d) --proxy-server=%s", shellQuote(way.url("socks5")))
	d.page.row("git", "git -c http.proxy=%s clone https://github.com/golang/example", shellQuote(socksURL))
	proxy := sshProxy(programName(self), "--dir", filepath.Join(d.dir, clientKind))
	d.page.row("ssh", "ssh -o ProxyCommand=%s user@host", shellQuote(proxy))
	d.page.row("anything", "%s run --dir %s -- COMMAND", shellQuote(programName(self)), shellQuote(filepath.Join(d.dir, clientKind)))
	d.page.note("Ctrl-C ends it")
	return nil
}
