package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/socks"
)

// fidelityLimit bounds what a test of fidelity waits for.
const fidelityLimit = 20 * time.Second

// chain is a server and a client in this process: door, client, TLS, server
// and exit, with real sockets between all that have some.
type chain struct {
	server string // its directory
	client *clientProcess
	line   *line // between client and server
	door   doorway
}

// startChain makes a chain and ends it with the test. Every flow must have
// ended by then.
func startChain(t testing.TB) *chain {
	t.Helper()
	return startChainWith(t, defaultServerConfig())
}

// startChainWith is startChain with a few settings of cfg, and more lines for server.toml.
func startChainWith(t testing.TB, cfg serverConfig, lines ...string) *chain {
	t.Helper()
	var (
		dir       = t.TempDir()
		serverDir = filepath.Join(dir, serverKind)
		clientDir = filepath.Join(dir, clientKind)
		quiet     = logFlags{Level: "error"}
		server    = listenLoopback(t)
		door      = listenLoopback(t)
		c         = &chain{server: serverDir, line: startLine(t, server.Addr().String())}
	)
	cfg.Listen, cfg.Name = []string{server.Addr().String()}, c.line.listener.Addr().String()
	invite := makeFidelityServer(t, serverDir, cfg, lines)
	ready := make(chan *clientProcess, 1)
	runPart(t, "server", func(ctx context.Context, log io.Writer) error {
		return runServer(ctx, serverOptions{
			dir: serverDir, flags: quiet, stderr: log,
			listeners: []net.Listener{server},
			started:   func() { ready <- nil },
		})
	})
	wait(t, ready, "the server")
	if err := joinServer(t.Context(), clientDir, invite, "laptop"); err != nil {
		t.Fatal(err)
	}
	runPart(t, "client", func(ctx context.Context, log io.Writer) error {
		return runClient(ctx, clientOptions{
			dir: clientDir, flags: quiet, stderr: log,
			listener: door,
			started:  func(p *clientProcess) { ready <- p },
		})
	})
	c.client = wait(t, ready, "the client")
	c.door = doorway{network: "tcp", address: door.Addr().String()}
	t.Cleanup(func() { c.checkIdle(t) })
	return c
}

func makeFidelityServer(t testing.TB, dir string, cfg serverConfig, lines []string) keys.Invite {
	t.Helper()
	cfg.Allow = []string{"loopback"}
	if _, err := initServer(t.Context(), dir, cfg); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, serverFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\n"+strings.Join(lines, "\n")+"\n"...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	const user = "alice"
	err = withStore(t.Context(), &dirFlag{kind: serverKind, path: dir}, func(ctx context.Context, s *users.Store) error {
		return s.AddUser(ctx, user)
	})
	if err != nil {
		t.Fatal(err)
	}
	uri, err := makeInvite(t.Context(), dir, inviteOrder{user: user, ttl: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	invite, err := keys.ParseInvite(uri)
	if err != nil {
		t.Fatal(err)
	}
	return invite
}

// runPart runs the server or the client until the test's end. It must not fail,
// and must have nothing to say.
func runPart(t testing.TB, name string, run func(ctx context.Context, log io.Writer) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var (
		part sync.WaitGroup
		log  lockedBuffer
	)
	part.Go(func() {
		if err := run(ctx, &log); err != nil {
			t.Errorf("the %s ends with %v", name, err)
		}
	})
	t.Cleanup(func() {
		cancel()
		part.Wait()
		if text := log.String(); text != "" {
			t.Errorf("the %s says:\n%s", name, text)
		}
	})
}

// lockedBuffer is a [bytes.Buffer] for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(fidelityLimit):
		t.Fatalf("still waiting for %s", what)
		panic("unreachable")
	}
}

// checkIdle waits until no stream is left. Nothing tells of it.
func (c *chain) checkIdle(t testing.TB) {
	for end := time.Now().Add(fidelityLimit); c.client.client.Status().Streams > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d streams are left when all is over", c.client.client.Status().Streams)
			return
		}
	}
}

// dialer connects an app to a target.
type dialer func(ctx context.Context, address string) (net.Conn, error)

// dial is how apps connect to targets through adit.
func (c *chain) dial(ctx context.Context, address string) (net.Conn, error) {
	target, err := socks.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	return c.door.dial(ctx, target)
}

// dialDirect is how they do so without it.
func dialDirect(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// pair is an app and its target, connected.
type pair struct{ app, target *net.TCPConn }

// connect makes a pair, which must be done with within [fidelityLimit]. Each has
// a listener of its own, so that nobody meets somebody else's app.
func connect(ctx context.Context, dial dialer) (pair, error) {
	targets, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return pair{}, err
	}
	defer targets.Close()
	app, err := dial(ctx, targets.Addr().String())
	if err != nil {
		return pair{}, err
	}
	target, err := targets.Accept()
	if err != nil {
		return pair{}, errors.Join(err, app.Close())
	}
	end := time.Now().Add(fidelityLimit)
	return pair{app.(*net.TCPConn), target.(*net.TCPConn)}, errors.Join(app.SetDeadline(end), target.SetDeadline(end))
}

// pair makes a pair through adit that is closed with the test.
func (c *chain) pair(t testing.TB) pair {
	t.Helper()
	p, err := connect(t.Context(), c.dial)
	if err != nil {
		t.Fatal(err)
	}
	// Before the chain ends: cleanups go backwards.
	t.Cleanup(func() {
		p.app.Close()
		p.target.Close()
	})
	return p
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

func listenLoopback(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// line carries TCP connections to an address until it is cut.
type line struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  []*net.TCPConn
	closed bool // nothing is carried
}

func startLine(t testing.TB, to string) *line {
	t.Helper()
	l := &line{listener: listenLoopback(t)}
	l.running.Go(func() {
		for {
			c, err := l.listener.Accept()
			if err != nil {
				return
			}
			l.carry(c.(*net.TCPConn), to)
		}
	})
	t.Cleanup(func() {
		l.listener.Close()
		l.cut()
		l.running.Wait()
	})
	return l
}

func (l *line) carry(a *net.TCPConn, to string) {
	c, err := net.Dial("tcp", to)
	if err != nil {
		reset(a)
		return
	}
	b := c.(*net.TCPConn)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		reset(a)
		reset(b)
		return
	}
	l.conns = append(l.conns, a, b)
	l.running.Go(func() { io.Copy(a, b); a.CloseWrite() })
	l.running.Go(func() { io.Copy(b, a); b.CloseWrite() })
}

// close cuts the line, and carries nothing until it is opened.
func (l *line) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cut()
}

func (l *line) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = false
}

// cut resets the connections there are. New ones are carried.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		reset(c)
	}
	l.conns = nil
}
