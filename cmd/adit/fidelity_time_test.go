package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// silence is how long nothing moves in the tests of virtual time. It is more
// than any time-out on the way may be.
const silence = time.Hour

// inVirtualTime runs a test in a bubble of testing/synctest, in a process of
// its own: yamux keeps timers for the whole process, and they must not leave the
// bubble.
func inVirtualTime(t *testing.T, test func(t *testing.T)) {
	const mark = "ADIT_VIRTUAL_TIME"
	if os.Getenv(mark) == t.Name() {
		synctest.Test(t, test)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*fidelityLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.v", "-test.count=1", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestHalfCloseAndSilenceLastAnHour runs everything but real sockets: door,
// client, TLS, server and a relay to targets in memory.
func TestHalfCloseAndSilenceLastAnHour(t *testing.T) { inVirtualTime(t, halfCloseAndSilence) }

func halfCloseAndSilence(t *testing.T) {
	c := startVirtualChain(t)
	tests := []struct {
		name  string
		first side // who ends its direction before the silence; -1 is nobody
	}{{"the app has ended", app}, {"the target has ended", target}, {"both are open", -1}}
	var flows sync.WaitGroup
	for _, test := range tests {
		conns := [2]relay.Conn{}
		conns[app], conns[target] = c.connect(t)
		flows.Go(func() {
			if err := speakAfterSilence(conns, test.first); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		})
	}
	began := time.Now()
	flows.Wait()
	if took := time.Since(began); took < silence {
		t.Errorf("all was over after %v", took)
	}
}

// speakAfterSilence has whoever may still write do so after an hour.
func speakAfterSilence(conns [2]relay.Conn, first side) error {
	for who, c := range conns {
		if _, err := io.WriteString(c, "early"); err != nil {
			return err
		}
		if first == side(who) {
			if err := c.CloseWrite(); err != nil {
				return err
			}
		}
		if err := expectText(conns[side(who).other()], "early", first == side(who)); err != nil {
			return err
		}
	}
	time.Sleep(silence)
	for who, c := range conns {
		if first == side(who) {
			continue
		}
		if _, err := io.WriteString(c, "late"); err != nil {
			return err
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		if err := expectText(conns[side(who).other()], "late", true); err != nil {
			return err
		}
	}
	return errors.Join(conns[app].Close(), conns[target].Close())
}

// expectText reads a text, and the end if there must be one.
func expectText(c net.Conn, text string, end bool) error {
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != text {
		return errors.New("other bytes have come: " + string(b))
	}
	if !end {
		return nil
	}
	if n, err := c.Read(b); n > 0 || !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("no clean end"), err)
	}
	return nil
}

// virtualChain is a [chain] without sockets.
type virtualChain struct {
	socks.Unserved
	door    *memoryListener
	targets *memoryListener
}

func startVirtualChain(t *testing.T) *virtualChain {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	store, err := users.Create(ctx, filepath.Join(t.TempDir(), storeFile))
	must(err)
	device, err := keys.NewDevice()
	must(err)
	must(store.AddUser(ctx, "alice"))
	token := keys.NewToken()
	must(store.Invite(ctx, "alice", token, time.Now().Add(time.Hour)))
	_, err = store.Join(ctx, token.Bytes(), users.Device{Key: device.Public(), WireGuard: device.WireGuardPublic(), Name: "laptop"})
	must(err)
	key, err := keys.NewServer()
	must(err)
	cert, err := key.Certificate("localhost")
	must(err)

	carriers, c := newMemoryListener(), &virtualChain{door: newMemoryListener(), targets: newMemoryListener()}
	hub := server.New(server.Config{Users: store, Relay: c})
	web := &tlslink.Server{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }}
	dial := &tlslink.Dialer{
		Address: "localhost:443",
		Pin:     key.Pin(),
		DialTCP: func(ctx context.Context, _, _ string) (net.Conn, error) {
			near, far := tunneltest.Link(tunneltest.Path{Delay: 10 * time.Millisecond})
			return near, carriers.give(ctx, far)
		},
	}
	laptop := client.New(client.Config{
		Device: device,
		Dial: func(ctx context.Context) (client.Carrier, error) {
			over, err := dial.Dial(ctx)
			return carrier{over}, err
		},
		Network: func(ctx context.Context, _ func(bool)) { <-ctx.Done() }, // real, which virtual time would wait for
	})
	door := &socks.Door{Relay: laptop, Admission: socks.Admission{Anyone: true}}

	parts := []func(context.Context) error{
		hub.Serve,
		func(ctx context.Context) error { return web.Serve(ctx, carriers, admitAt(hub)) },
		laptop.Serve,
		func(ctx context.Context) error { return door.Serve(ctx, c.door) },
	}
	var stops []func()
	for _, part := range parts {
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() {
			if err := part(ctx); err != nil {
				t.Error(err)
			}
		})
		stops = append(stops, func() { cancel(); running.Wait() })
	}
	t.Cleanup(func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
		must(store.Close())
	})
	return c
}

// connect brings an app through the door to a target.
func (c *virtualChain) connect(t *testing.T) (app, target relay.Conn) {
	t.Helper()
	app, inside := newDuplex()
	if err := c.door.give(t.Context(), inside); err != nil {
		t.Fatal(err)
	}
	if err := (doorway{}).connect(app, socks.Addr{Name: "target", Port: 80}); err != nil {
		t.Fatal(err)
	}
	conn, err := c.targets.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return app, conn.(relay.Conn)
}

// Connect makes c the server's exit.
func (c *virtualChain) Connect(ctx context.Context, _ socks.Request) (relay.Conn, socks.Reply, error) {
	near, far := newDuplex()
	// Accept comes after the reply.
	return near, socks.Reply{Code: socks.Succeeded}, c.targets.give(ctx, far)
}

// memoryListener is a [net.Listener] on no network.
type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
}

func (l *memoryListener) give(ctx context.Context, c net.Conn) error {
	select {
	case l.conns <- c:
		return nil
	case <-l.closed:
		return net.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// duplex is one end of a [relay.Conn] in memory: a pipe for each direction.
type duplex struct {
	net.Conn          // reads
	out      net.Conn // writes
}

func newDuplex() (a, b duplex) {
	upIn, upOut := net.Pipe()
	downIn, downOut := net.Pipe()
	return duplex{downIn, upOut}, duplex{upIn, downOut}
}

func (d duplex) Write(p []byte) (int, error)        { return d.out.Write(p) }
func (d duplex) CloseWrite() error                  { return d.out.Close() }
func (d duplex) Close() error                       { return errors.Join(d.out.Close(), d.Conn.Close()) }
func (d duplex) Reset() error                       { return d.Close() }
func (d duplex) SetWriteDeadline(t time.Time) error { return d.out.SetWriteDeadline(t) }

func (d duplex) SetDeadline(t time.Time) error {
	return errors.Join(d.out.SetDeadline(t), d.Conn.SetDeadline(t))
}
