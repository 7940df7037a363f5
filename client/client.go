// Package client keeps one session with a server alive and offers it as a
// [socks.Relay] and as DialContext: for the door, and for Go programs that embed adit.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
)

// Carrier is an encrypted connection to the server, which has proved who it
// is; the device has not yet.
type Carrier interface {
	// Place is what an opening for this carrier must be bound to.
	Place() tunnel.Place

	// Protection says what keeps the carrier's bytes secret.
	Protection() tunnel.Protection

	// Attach sends an opening and gives the server's answer, and the conn that
	// carries what follows. The carrier is used up.
	Attach(ctx context.Context, opening []byte) (conn net.Conn, answer []byte, err error)

	// Close gives up a carrier on which Attach has not succeeded.
	Close() error
}

// Dialer makes a carrier. It gives up when ctx ends.
type Dialer func(ctx context.Context) (Carrier, error)

// Config says how a client reaches its server. Dial and Device are needed.
type Config struct {
	Dial   Dialer
	Device tunnel.Signer

	// Patience is how long a request waits for a session while there is none.
	// 0 means 15 s.
	Patience time.Duration

	// Log gets what happens to the session. nil means slog.Default.
	Log *slog.Logger
}

// Client holds a session with the server while Serve runs. Its methods are
// safe for concurrent use.
type Client struct {
	cfg Config

	mu      sync.Mutex
	session *tunnel.Session // nil while there is none
	changed chan struct{}   // closed and made anew when session changes
	status  Status
	err     error // why there will be no session any more
}

// Status says how the client is doing.
type Status struct {
	Connected  bool
	Since      time.Time         // when the session began, or was lost
	Error      string            // why there is none, in words
	Retry      time.Time         // when the next attempt is made; zero while connected
	RoundTrip  time.Duration     // 0 if it has not been measured
	Streams    int               // open now
	Opened     uint64            // since the session began
	Protection tunnel.Protection // of the session's carrier
}

// New gives a client. Nothing happens before Serve.
func New(cfg Config) *Client {
	if cfg.Patience == 0 {
		cfg.Patience = 15 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Client{cfg: cfg, changed: make(chan struct{}), status: Status{Since: time.Now()}}
}

// How long to wait before the next attempt to reach the server.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// attachLimit bounds one attempt to reach the server.
const attachLimit = 20 * time.Second

// Serve keeps a session alive until ctx ends, and then ends it. It gives up
// only if the server refuses this device for good; the error is then a
// [tunnel.Refusal]. It must be called once.
func (c *Client) Serve(ctx context.Context) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	backoff := minBackoff
	for {
		session, err := c.attach(ctx)
		switch {
		case ctx.Err() != nil:
			c.give(nil, ctx.Err())
			return nil
		case final(err):
			c.give(nil, err)
			return err
		case err != nil:
			// Jitter keeps the clients of a server that comes back apart.
			wait := backoff/2 + rand.N(backoff/2)
			c.failed(err, wait)
			backoff = min(2*backoff, maxBackoff)
			sleep(ctx, wait)
			continue
		}
		backoff = minBackoff
		ended := make(chan error, 1)
		sessions.Go(func() { ended <- session.Serve(ctx) })
		if err := c.hold(ctx, session, ended); final(err) {
			c.give(nil, err)
			return err
		}
	}
}

// final tells whether there is no point in trying again.
func final(err error) bool {
	var refusal tunnel.Refusal
	return errors.As(err, &refusal) && !refusal.Temporary() && refusal != tunnel.RefusedSession
}

// attach makes a carrier and a session on it.
func (c *Client) attach(ctx context.Context) (*tunnel.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, attachLimit)
	defer cancel()
	carrier, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	opening := tunnel.Hello{Epoch: 1}.Sign(c.cfg.Device, carrier.Place())
	conn, answer, err := carrier.Attach(ctx, opening)
	if err != nil {
		carrier.Close()
		return nil, err
	}
	welcome, err := tunnel.ParseAnswer(answer)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("attach to the server: %w", err)
	}
	c.mu.Lock()
	c.status.Protection = carrier.Protection()
	c.mu.Unlock()
	return tunnel.NewSession(conn, true, tunnel.Config{Streams: int(welcome.Streams), Log: c.cfg.Log}), nil
}

// hold offers a session until it takes no more streams. A session that the
// server drains goes on without being held.
func (c *Client) hold(ctx context.Context, session *tunnel.Session, ended <-chan error) error {
	c.give(session, nil)
	c.cfg.Log.Info("connected", "carrier", c.Status().Protection.Carrier)
	select {
	case <-session.Draining():
		c.give(nil, nil)
		c.cfg.Log.Info("the server drains this session; starting another")
		return nil
	case err := <-ended:
		c.give(nil, nil)
		if ctx.Err() != nil {
			return nil
		}
		c.note(err)
		c.cfg.Log.Warn("disconnected", "error", err)
		return err
	}
}

// give makes session the one that requests use. With err there will be none.
func (c *Client) give(session *tunnel.Session, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.err = session, err
	c.status.Connected, c.status.Since = session != nil, time.Now()
	c.status.Error, c.status.Retry = "", time.Time{}
	if err != nil {
		c.status.Error = err.Error()
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// drop makes requests wait for another session than this one.
func (c *Client) drop(session *tunnel.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == session {
		c.session = nil
	}
}

// note keeps why there is no session, for status.
func (c *Client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Error = err.Error()
}

func (c *Client) failed(err error, wait time.Duration) {
	c.note(err)
	c.mu.Lock()
	c.status.Retry = time.Now().Add(wait)
	c.mu.Unlock()
	c.cfg.Log.Warn("cannot reach the server", "error", err, "retry_in", wait.Round(time.Millisecond))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Ready waits until there is a session. Its error says why there will be none,
// or that ctx has ended.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.current(ctx)
	return err
}

// current waits for a session.
func (c *Client) current(ctx context.Context) (*tunnel.Session, error) {
	for {
		c.mu.Lock()
		session, err, changed := c.session, c.err, c.changed
		c.mu.Unlock()
		if session != nil || err != nil {
			return session, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Status gives the state of this moment.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.status
	if c.session != nil {
		s := c.session.Stats()
		st.RoundTrip, st.Streams, st.Opened = s.RoundTrip, s.Streams, s.Opened
	}
	return st
}

// Enrol redeems an invite's token on a carrier: from then on the server knows
// the device as one of the invite's user. The error is a [tunnel.Refusal] if the server says
// no.
func Enrol(ctx context.Context, carrier Carrier, device tunnel.Signer, join tunnel.Join) error {
	opening, err := join.Sign(device, carrier.Place())
	if err != nil {
		carrier.Close()
		return err
	}
	conn, answer, err := carrier.Attach(ctx, opening)
	if err != nil {
		carrier.Close()
		return err
	}
	defer conn.Close()
	_, err = tunnel.ParseAnswer(answer)
	return err
}
