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
	"slices"
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

	mu         sync.Mutex
	session    *tunnel.Session // nil while there is none
	changed    chan struct{}   // closed and made anew when session changes
	over       bool            // there will be no session any more
	why        error           // why there is none; nil before the first attempt
	since      time.Time
	retry      time.Time
	protection tunnel.Protection
	retired    []*tunnel.Session // what the server drains, the oldest first
}

// New gives a client. Nothing happens before Serve.
func New(cfg Config) *Client {
	if cfg.Patience == 0 {
		cfg.Patience = 15 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Client{cfg: cfg, changed: make(chan struct{}), since: time.Now()}
}

// How long to wait before the next attempt to reach the server.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// Bounds on what a server can make a client do.
const (
	attachLimit = 20 * time.Second // of one attempt to reach it
	maxStreams  = 1 << 16          // in one session, whatever it allows
	maxRetired  = 4                // sessions that it drains; of more, the oldest ends
)

// Why a client has no session, where the server has not said it.
var (
	errStopped = errors.New("the client has stopped")
	errDrained = errors.New("the server takes no more streams in this session")
)

// Serve keeps a session alive until ctx ends, and then ends it. It gives up
// only if the server refuses this device for good; the error is then a
// [tunnel.Refusal]. It must be called once.
func (c *Client) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer cancel() // ends the sessions that the server drains
	backoff := minBackoff
	for {
		held, err := c.hold(ctx, &sessions)
		switch {
		case ctx.Err() != nil:
			c.stop(errStopped)
			return nil
		case final(err):
			c.stop(err)
			return err
		case held > backoff:
			backoff = minBackoff
		}
		// Jitter keeps the clients of a server that comes back apart.
		wait := backoff/2 + rand.N(backoff/2)
		backoff = min(2*backoff, maxBackoff)
		c.withdraw(err, wait)
		what := "disconnected"
		if held == 0 {
			what = "cannot reach the server"
		}
		c.cfg.Log.Warn(what, "error", err, "retry_in", wait.Round(time.Millisecond))
		sleep(ctx, wait)
	}
}

// final tells whether there is no point in trying again.
func final(err error) bool {
	refusal, ok := errors.AsType[tunnel.Refusal](err)
	return ok && !refusal.Temporary() && refusal != tunnel.RefusedSession
}

// hold makes a session and offers it until it takes no more streams. It says
// for how long there was one, and why there is none now.
func (c *Client) hold(ctx context.Context, sessions *sync.WaitGroup) (held time.Duration, err error) {
	session, protection, err := c.attach(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	ended := make(chan error, 1)
	sessions.Go(func() { ended <- session.Serve(ctx) })
	c.offer(session, protection)
	c.cfg.Log.Info("connected", "carrier", protection.Carrier)
	select {
	case err = <-ended:
	case <-session.Draining():
		err = errDrained
		c.retire(session)
		// Its streams go on. The server ends it after the last of them: it alone
		// knows when the targets have taken all that came.
	}
	return time.Since(began), err
}

// attach makes a carrier and a session on it.
func (c *Client) attach(ctx context.Context) (*tunnel.Session, tunnel.Protection, error) {
	ctx, cancel := context.WithTimeout(ctx, attachLimit)
	defer cancel()
	carrier, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, tunnel.Protection{}, err
	}
	opening := tunnel.Hello{Epoch: 1}.Sign(c.cfg.Device, carrier.Place())
	protection := carrier.Protection()
	conn, answer, err := carrier.Attach(ctx, opening)
	if err != nil {
		carrier.Close()
		return nil, tunnel.Protection{}, err
	}
	welcome, err := tunnel.ParseAnswer(answer)
	if err != nil {
		conn.Close()
		return nil, tunnel.Protection{}, fmt.Errorf("attach to the server: %w", err)
	}
	streams := int(min(welcome.Streams, maxStreams))
	return tunnel.NewSession(conn, true, tunnel.Config{Streams: streams, Log: c.cfg.Log}), protection, nil
}

// offer makes session the one that requests use.
func (c *Client) offer(session *tunnel.Session, protection tunnel.Protection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.protection = session, protection
	c.why, c.retry = nil, time.Time{}
	c.change()
}

// withdraw makes requests wait for the next session, which is tried for after
// wait.
func (c *Client) withdraw(why error, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.why, c.retry = why, time.Now().Add(wait)
	if c.session != nil {
		c.session = nil
		c.change()
	}
}

// stop lets all requests fail from now on.
func (c *Client) stop(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.over, c.why, c.retry = nil, true, why, time.Time{}
	c.change()
}

// change tells those who wait. The caller holds mu.
func (c *Client) change() {
	c.since = time.Now()
	close(c.changed)
	c.changed = make(chan struct{})
}

// retire withdraws a session that the server drains, and keeps count of it.
func (c *Client) retire(session *tunnel.Session) {
	c.mu.Lock()
	c.session, c.why = nil, errDrained
	c.change()
	c.retired = slices.DeleteFunc(c.retired, func(s *tunnel.Session) bool { return s.Err() != nil })
	c.retired = append(c.retired, session)
	var surplus *tunnel.Session
	if len(c.retired) > maxRetired {
		surplus, c.retired = c.retired[0], c.retired[1:]
	}
	c.mu.Unlock()
	if surplus != nil {
		surplus.Close(0)
	}
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
// or why there is none yet when ctx ends.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.await(ctx, nil)
	return err
}

// await waits for a session other than old.
func (c *Client) await(ctx context.Context, old *tunnel.Session) (*tunnel.Session, error) {
	for {
		c.mu.Lock()
		session, changed, over, why := c.session, c.changed, c.over, c.why
		c.mu.Unlock()
		switch {
		case over:
			return nil, why
		case session != nil && session != old:
			return session, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, c.absence(context.Cause(ctx))
		}
	}
}

// absence adds to the reason to wait no longer why there is no session, if
// that is known.
func (c *Client) absence(cause error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == nil {
		return cause
	}
	return fmt.Errorf("%w: %w", cause, c.why)
}

// Status says how the client is doing.
type Status struct {
	Connected  bool
	Since      time.Time         // when that became so
	Error      string            // why there is no session, in words
	Retry      time.Time         // when the next attempt is made; zero while connected
	RoundTrip  time.Duration     // 0 if it has not been measured
	Streams    int               // open now, with those in sessions that the server drains
	Opened     uint64            // since the session began
	Protection tunnel.Protection // of the session's carrier, or the last one's
}

// Status gives the state of this moment.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := Status{Connected: c.session != nil, Since: c.since, Retry: c.retry, Protection: c.protection}
	if c.why != nil {
		st.Error = c.why.Error()
	}
	if c.session != nil {
		s := c.session.Stats()
		st.RoundTrip, st.Streams, st.Opened = s.RoundTrip, s.Streams, s.Opened
	}
	for _, s := range c.retired {
		st.Streams += s.Stats().Streams
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
