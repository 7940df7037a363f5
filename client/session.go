package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/adit-net/adit/client/netwatch"
	"github.com/adit-net/adit/tunnel"
)

// session is a session with the server, and what keeps it alive.
type session struct {
	*tunnel.Session
	client *Client
	id     [16]byte
	saying chan struct{} // held by the attempt that talks to the server

	carriers sync.WaitGroup

	mu         sync.Mutex
	epoch      uint64 // of the last attempt
	carrier    *tunnel.Carrier
	conn       net.Conn
	protection tunnel.Protection
	failure    error     // of the last attempt; nil once there is a carrier
	retry      time.Time // when the next one is made
	logged     time.Time // when failure was
}

// graceMore is how much longer than the server this end keeps a session that
// has no carrier: the server decides.
const graceMore = 2 * time.Second

// begin makes a session.
func (c *Client) begin(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, attachLimit)
	defer cancel()
	carrier, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	hello := tunnel.Hello{Epoch: 1}
	conn, welcome, err := c.attach(ctx, carrier, hello)
	if err != nil {
		return nil, err
	}
	s := &session{client: c, id: welcome.Session, saying: make(chan struct{}, 1), epoch: hello.Epoch}
	s.Session = tunnel.New(true, tunnel.Config{
		Streams: int(min(welcome.Streams, maxStreams)),
		Grace:   time.Duration(welcome.Grace)*time.Second + graceMore,
		Log:     c.cfg.Log,
	})
	return s, s.take(conn, carrier.Protection(), hello, welcome)
}

// attach says who this is on a carrier, and gives what the server answered.
func (c *Client) attach(ctx context.Context, carrier Carrier, hello tunnel.Hello) (net.Conn, tunnel.Welcome, error) {
	conn, answer, err := carrier.Attach(ctx, hello.Sign(c.cfg.Device, carrier.Place()))
	if err != nil {
		carrier.Close()
		return nil, tunnel.Welcome{}, err
	}
	welcome, err := tunnel.ParseAnswer(answer)
	if err != nil {
		conn.Close()
		return nil, welcome, fmt.Errorf("attach to the server: %w", err)
	}
	return conn, welcome, nil
}

// take makes conn the session's carrier.
func (s *session) take(conn net.Conn, protection tunnel.Protection, hello tunnel.Hello, welcome tunnel.Welcome) error {
	carrier, err := s.Attach(conn, hello.Epoch, welcome.Received)
	if err != nil {
		conn.Close()
		return fmt.Errorf("attach to the server: %w", err)
	}
	s.mu.Lock()
	s.carrier, s.conn, s.protection = carrier, conn, protection
	s.failure, s.retry = nil, time.Time{}
	s.mu.Unlock()
	if hello.Epoch > 1 {
		s.client.cfg.Log.Info("resumed", "carrier", protection.Carrier, "after", carrier.Gap.Round(time.Millisecond),
			"replayed", carrier.Replay, "streams", s.Stats().Streams)
	}
	// The session ends its carriers, and tells the server so.
	s.carriers.Go(func() { s.goes(carrier.Serve(context.Background())) })
	return nil
}

// goes says that a carrier is lost.
func (s *session) goes(why error) {
	if state, _ := s.State(); state.Err == nil && !errors.Is(why, tunnel.ErrReplaced) {
		s.client.cfg.Log.Warn("detached: connections wait", "error", why, "streams", s.Stats().Streams)
	}
}

// run keeps the session until it is over, and says why it is.
func (s *session) run(ctx context.Context) error {
	defer s.carriers.Wait()
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keeping.Go(func() { s.keep(ctx) })
	return s.Serve(ctx)
}

// keep sees to it that the session has a carrier until it is over.
func (s *session) keep(ctx context.Context) {
	stirred := s.client.stirs.next()
	for {
		state, changed := s.State()
		switch {
		case state.Err != nil || ctx.Err() != nil:
			return
		case !state.Attached || state.Suspect:
			s.reattach(ctx, false)
			continue
		}
		select {
		case <-changed:
		case <-stirred:
			stirred = s.client.stirs.next()
			s.examine(ctx)
		case <-s.Done():
			return
		}
	}
}

// errNoAddress is why a carrier is given up whose conn can never work again.
var errNoAddress = errors.New("the address that it came from is gone")

// examine looks whether the carrier still fits the network, after that has
// changed.
func (s *session) examine(ctx context.Context) {
	if s.client.stirs.slept() {
		s.reattach(ctx, true)
		return
	}
	s.mu.Lock()
	carrier, conn := s.carrier, s.conn
	s.mu.Unlock()
	local, remote, ok := addresses(conn)
	if !ok {
		s.Probe()
		return
	}
	if has, err := netwatch.Has(local); err == nil && !has {
		carrier.Drop(errNoAddress)
		return
	}
	if source, err := netwatch.Source(remote); err == nil && source != local.WithZone("") && source != local {
		s.reattach(ctx, true)
		return
	}
	s.Probe()
}

// addresses gives the ends of a TCP connection.
func addresses(conn net.Conn) (local netip.Addr, remote netip.AddrPort, ok bool) {
	l, isTCP := conn.LocalAddr().(*net.TCPAddr)
	r, isToo := conn.RemoteAddr().(*net.TCPAddr)
	if !isTCP || !isToo {
		return local, remote, false
	}
	return l.AddrPort().Addr().Unmap(), r.AddrPort(), true
}

// protected is the protection of the last carrier.
func (s *session) protected() tunnel.Protection {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.protection
}

// describe adds what the session knows to a status.
func (s *session) describe(st *Status) {
	state, _ := s.State()
	stats := s.Stats()
	st.RoundTrip, st.Streams, st.Opened = stats.RoundTrip, stats.Streams, stats.Opened
	st.Resumes, st.Replayed = state.Resumes, state.Replayed
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Protection = s.protection
	if state.Attached {
		return
	}
	st.Connected, st.Detached, st.Since, st.Retry = false, true, state.Since, s.retry
	switch {
	case s.failure != nil:
		st.Error = s.failure.Error()
	case state.Lost != nil:
		st.Error = state.Lost.Error()
	}
}
