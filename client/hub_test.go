package client_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// patience bounds what a test waits for.
const patience = 20 * time.Second

var errAway = errors.New("the server is away")

// hub is a server in memory, with what goes wrong at servers.
type hub struct {
	ctx      context.Context // of its sessions
	running  sync.WaitGroup  // of its sessions
	handle   func(context.Context, *tunnel.Stream)
	attempts chan struct{}        // gets one for each dial, if it has room
	sessions chan *hubSession     // gets those that have begun
	place    tunnel.Place         // of every carrier
	opened   func(opening []byte) // looks at openings; may be nil

	mu     sync.Mutex
	away   error  // what a dial fails with
	answer []byte // to every opening; nil stands for a welcome, and a session
	limit  uint32 // of streams, in the welcome
}

// hubSession is the server's end of a session.
type hubSession struct {
	*tunnel.Session
	carrier *tunneltest.Conn
}

// newHub gives a hub whose streams succeed, and then send back what they get,
// unless handle says otherwise.
func newHub(t *testing.T, handle func(context.Context, *tunnel.Stream)) *hub {
	if handle == nil {
		handle = echo
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &hub{
		ctx:      ctx,
		handle:   handle,
		attempts: make(chan struct{}, 1000),
		sessions: make(chan *hubSession, 1000),
		place:    tunnel.Place{Server: [32]byte{1}, Carrier: [32]byte{2}},
		limit:    1000,
	}
	t.Cleanup(func() { cancel(); h.running.Wait() })
	return h
}

// set changes how the hub behaves.
func (h *hub) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

func (h *hub) dial(context.Context) (client.Carrier, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.attempts <- struct{}{}:
	default:
	}
	if h.away != nil {
		return nil, h.away
	}
	near, far := tunneltest.Link(tunneltest.Path{})
	return &hubCarrier{h, near, far}, nil
}

// session waits for the next session.
func (h *hub) session(t *testing.T) *hubSession {
	t.Helper()
	return receive(t, h.sessions, "a session")
}

// hubCarrier is a carrier to a hub.
type hubCarrier struct {
	hub       *hub
	near, far *tunneltest.Conn
}

func (c *hubCarrier) Place() tunnel.Place { return c.hub.place }

func (c *hubCarrier) Protection() tunnel.Protection { return tunnel.Protection{Carrier: "memory"} }

func (c *hubCarrier) Close() error { return c.near.Close() }

func (c *hubCarrier) Attach(_ context.Context, opening []byte) (net.Conn, []byte, error) {
	h := c.hub
	h.mu.Lock()
	answer, limit := h.answer, h.limit
	h.mu.Unlock()
	if h.opened != nil {
		h.opened(opening)
	}
	if answer != nil {
		return c.near, answer, nil
	}
	s := &hubSession{tunnel.NewSession(c.far, false, tunnel.Config{Handle: h.handle}), c.near}
	h.running.Go(func() { _ = s.Serve(h.ctx) })
	h.sessions <- s
	return c.near, tunnel.Welcome{Streams: limit}.Bytes(), nil
}

// echo is a server whose every target sends back what it gets.
func echo(_ context.Context, s *tunnel.Stream) {
	if _, err := socks.ReadRequest6(s); err == nil {
		accept(s)
	}
}

// accept grants a request that has been read.
func accept(s *tunnel.Stream) {
	if answer(s, socks.Succeeded) != nil {
		return
	}
	buf := make([]byte, 1024)
	for {
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		if _, err := s.Write(buf[:n]); err != nil {
			return
		}
	}
}

// serving is a client whose Serve runs.
type serving struct {
	*client.Client
	stop  func() // and wait
	ended chan error
}

// start runs a client until the test ends.
func start(t *testing.T, h *hub, change func(*client.Config)) *serving {
	t.Helper()
	device, err := keys.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	cfg := client.Config{Dial: h.dial, Device: device, Patience: patience, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{Client: client.New(cfg), ended: make(chan error, 1)}
	var running sync.WaitGroup
	running.Go(func() { s.ended <- s.Serve(ctx) })
	s.stop = func() { cancel(); running.Wait() }
	t.Cleanup(s.stop)
	return s
}

var target = socks.Request{Command: socks.Connect, Dst: socks.Addr{Name: "target.example", Port: 80}}

// receive takes what must come.
func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}
