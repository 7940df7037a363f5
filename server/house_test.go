package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/tunneltest"
	"github.com/adit-net/adit/tunnel/udp"
)

// patience bounds what a test waits for.
const patience = 20 * time.Second

// house is a server with a store of its own, whose carriers are in memory.
type house struct {
	*Server
	t     testing.TB
	path  string // of the store
	store *users.Store
	log   *journal
	ended chan error // gets how Serve has ended
	stop  func()     // stops Serve and all sessions, and waits

	ctx     context.Context
	running sync.WaitGroup
}

// newHouse starts a server with the users anna and bob. It allows loopback
// targets.
func newHouse(t testing.TB, change func(*Config)) *house {
	t.Helper()
	h := &house{t: t, path: filepath.Join(t.TempDir(), "adit.db"), log: &journal{}, ended: make(chan error, 1)}
	var err error
	if h.store, err = users.Create(t.Context(), h.path); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"anna", "bob"} {
		h.must(h.store.AddUser(t.Context(), name))
	}
	cfg := Config{Users: h.store, Relay: &Exit{Allow: Allow{Loopback: true}}, Log: slog.New(slog.NewJSONHandler(h.log, nil))}
	if change != nil {
		change(&cfg)
	}
	h.Server = New(cfg)
	var cancel context.CancelFunc
	h.ctx, cancel = context.WithCancel(context.Background())
	h.running.Go(func() { h.ended <- h.Serve(h.ctx) })
	h.stop = func() { cancel(); h.running.Wait() }
	t.Cleanup(func() {
		h.stop()
		h.must(h.store.Close())
	})
	return h
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// invite makes an invite's token.
func (h *house) invite(user string, last time.Duration) keys.Token {
	h.t.Helper()
	token := keys.NewToken()
	h.must(h.store.Invite(h.t.Context(), user, token, time.Now().Add(last)))
	return token
}

func (h *house) newKey() *keys.Device {
	h.t.Helper()
	key, err := keys.NewDevice()
	h.must(err)
	return key
}

// device enrols a device of a user's.
func (h *house) device(user string) *keys.Device {
	h.t.Helper()
	key := h.newKey()
	_, err := h.store.Join(h.t.Context(), h.invite(user, time.Hour).Bytes(),
		users.Device{Key: key.Public(), WireGuard: key.WireGuardPublic(), Name: "laptop"})
	h.must(err)
	return key
}

// here is the place of every carrier.
var here = tunnel.Place{Server: [32]byte{1}, Carrier: [32]byte{2}}

// come brings an opening to the door, and gives the answer.
func (h *house) come(opening []byte) (answer []byte, serve func(context.Context, net.Conn)) {
	return h.Admit(h.ctx, tunnel.Arrival{
		Opening: opening,
		Place:   here,
		Remote:  netip.MustParseAddrPort("192.0.2.7:4711"),
	})
}

// hello brings a HELLO.
func (h *house) hello(key *keys.Device) (answer []byte, serve func(context.Context, net.Conn)) {
	return h.come(tunnel.Hello{Epoch: 1}.Sign(key, here))
}

// carrier opens a carrier on which the server runs a session; served is closed
// when it has ended.
func (h *house) carrier(key *keys.Device) (near *tunneltest.Conn, served <-chan struct{}) {
	h.t.Helper()
	answer, serve := h.hello(key)
	welcome, err := tunnel.ParseAnswer(answer)
	h.must(err)
	if serve == nil || welcome.Session == [16]byte{} {
		h.t.Fatalf("welcome %+v", welcome)
	}
	near, far := tunneltest.Link(tunneltest.Path{})
	done := make(chan struct{})
	h.running.Go(func() {
		defer close(done)
		defer far.Close()
		serve(h.ctx, far)
	})
	return near, done
}

// guest is a device's end of a session.
type guest struct {
	*tunnel.Session
	t      testing.TB
	link   *tunneltest.Conn
	served <-chan struct{}
	mux    *udp.Mux // nil until it has an association
}

// attach begins a session.
func (h *house) attach(key *keys.Device) *guest {
	h.t.Helper()
	near, served := h.carrier(key)
	g := &guest{tunnel.New(true, tunnel.Config{}), h.t, near, served, nil}
	carrier, err := g.Attach(near, 1, 0)
	h.must(err)
	h.running.Go(func() { _ = carrier.Serve(context.Background()) })
	h.running.Go(func() { _ = g.Serve(h.ctx) })
	return g
}

// request opens a stream, makes a request, and gives the code of the reply.
func (g *guest) request(command socks.Command, dst socks.Addr) (*tunnel.Stream, socks.Code) {
	g.t.Helper()
	stream, err := g.Open(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	stream.SetDeadline(time.Now().Add(patience))
	b, err := socks.Request6{Command: command, Dst: dst}.AppendBinary(nil)
	if err != nil {
		g.t.Fatal(err)
	}
	_, _ = stream.Write(b) // a server that refuses does so at any time
	auth, err := socks.ReadAuthReply6(stream)
	if err != nil || !auth.OK {
		g.t.Fatalf("authentication reply %+v, %v", auth, err)
	}
	reply, err := socks.ReadOperationReply6(stream)
	if err != nil {
		g.t.Fatal(err)
	}
	return stream, reply.Code
}

// connect connects to a port of this host.
func (g *guest) connect(port uint16) *tunnel.Stream {
	g.t.Helper()
	stream, code := g.request(socks.Connect, onLoopback(port))
	if code != socks.Succeeded {
		g.t.Fatalf("connect: %v", code)
	}
	return stream
}

func onLoopback(port uint16) socks.Addr {
	return socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: port}
}

// exchange sends a word and wants it back.
func exchange(t testing.TB, c net.Conn, word string) {
	t.Helper()
	if err := tryExchange(c, word); err != nil {
		t.Fatal(err)
	}
}

func tryExchange(c net.Conn, word string) error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != word {
		return errors.New("other bytes came back")
	}
	return nil
}

// receive takes what must come.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// journal keeps what is logged as JSON.
type journal struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.String()
}

// find gives the lines with a message.
func (j *journal) find(t testing.TB, msg string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(j.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if fields["msg"] == msg {
			found = append(found, fields)
		}
	}
	return found
}

// target listens on loopback and serves each connection by serve until the
// test ends.
func target(t testing.TB, serve func(*net.TCPConn)) (port uint16) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				stop := context.AfterFunc(ctx, func() { c.Close() })
				defer stop()
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { cancel(); ln.Close(); serving.Wait() })
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

// echoTarget sends back what it gets, to any number of connections at once.
func echoTarget(t testing.TB) (port uint16) {
	t.Helper()
	return target(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
}
