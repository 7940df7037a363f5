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
	sessions chan *hubSession     // gets those that have begun, and more lanes of theirs
	place    tunnel.Place         // of every carrier
	opened   func(opening []byte) // looks at openings; may be nil

	mu     sync.Mutex
	away   error         // what a dial fails with
	answer []byte        // to every opening; nil stands for a welcome, and a session
	limit  uint32        // of streams, in the welcome
	grace  time.Duration // how long sessions wait for another carrier
	lanes  byte          // of one session, in the welcome
	begun  byte          // sessions: their ids count from 1
	known  map[[2]byte]*hubSession
}

// hubSession is the server's end of a session, or of a lane of one.
type hubSession struct {
	*tunnel.Session
	id, lane byte

	mu      sync.Mutex
	carrier *tunneltest.Conn
}

// cut breaks the carrier, and puts another in its place.
func (s *hubSession) cut(next *tunneltest.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.carrier != nil {
		s.carrier.Cut()
	}
	s.carrier = next
}

// lose breaks the carrier of a session that the server does not know any more.
func (s *hubSession) lose() {
	s.cut(nil)
	s.Fail(errAway)
}

// newHub gives a hub whose streams succeed, and then send back what they get,
// unless handle says otherwise.
func newHub(t testing.TB, handle func(context.Context, *tunnel.Stream)) *hub {
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
		known:    make(map[[2]byte]*hubSession),
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
	o, err := tunnel.OpenAt(opening, h.place)
	if err != nil {
		return nil, nil, err
	}
	s, welcome, err := h.find(o.Hello)
	if refusal, ok := errors.AsType[tunnel.Refusal](err); ok {
		return c.near, refusal.Bytes(), nil
	}
	welcome.Streams = limit
	carrier, err := s.Attach(c.far, o.Hello.Epoch, o.Hello.Received)
	if err != nil {
		return c.near, tunnel.RefusedSession.Bytes(), nil
	}
	h.running.Go(func() { _ = carrier.Serve(context.Background()) })
	s.cut(c.near)
	if o.Hello.Epoch == 1 {
		h.running.Go(func() { _ = s.Serve(h.ctx) })
		h.sessions <- s
	}
	return c.near, welcome.Bytes(), nil
}

// find gives the session that a HELLO is for, or a new one.
func (h *hub) find(hello *tunnel.Hello) (*hubSession, tunnel.Welcome, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := tunnel.Welcome{Session: hello.Session, Epoch: hello.Epoch, Grace: uint32(h.grace.Seconds()), Lanes: h.lanes}
	if hello.Session == [16]byte{} {
		h.begun++
		w.Session[0] = h.begun
	}
	key := [2]byte{w.Session[0], hello.Lane}
	s := h.known[key]
	if hello.Epoch == 1 && (s == nil || s.Err() != nil) {
		s = &hubSession{Session: tunnel.New(false, tunnel.Config{Handle: h.handle, Grace: h.grace}), id: key[0], lane: key[1]}
		h.known[key] = s
	}
	if s == nil {
		return nil, w, tunnel.RefusedSession
	}
	received, err := s.Judge(hello.Epoch, hello.Received)
	switch {
	case errors.Is(err, tunnel.ErrStale):
		return nil, w, tunnel.RefusedStale
	case err != nil:
		return nil, w, tunnel.RefusedSession
	}
	w.Received = received
	return s, w, nil
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
func start(t testing.TB, h *hub, change func(*client.Config)) *serving {
	t.Helper()
	device, err := keys.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	cfg := client.Config{
		Dial:     h.dial,
		Device:   device,
		Patience: patience,
		Network:  func(ctx context.Context, _ func(bool)) { <-ctx.Done() },
		Log:      slog.New(slog.DiscardHandler),
	}
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

// until polls for what no event tells of.
func until(t *testing.T, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !what(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to that")
		}
	}
}
