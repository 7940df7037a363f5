// Package client keeps one session with a server alive and offers it as a
// [socks.Relay] and as DialContext: for the door, and for Go programs that embed adit.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
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

	// Better are ways to the server that are preferred to Dial, the best first. All are
	// raced, each with a head start before the next, and a session leaves a carrier for one of a better way
	// when there is one.
	Better []Dialer

	// Lanes is how many carriers a session has at once, each with streams of its
	// own, so that a lost packet holds up only those; at most tunnel.MaxLanes, and what
	// the server allows. 0 means 1.
	Lanes int

	// Patience is how long a request waits for a session while there is none, or
	// it has no carrier. 0 means 15 s.
	Patience time.Duration

	// Network calls changed when the machine's network has changed, and says
	// whether the machine has slept, until ctx ends. nil means the network itself.
	Network func(ctx context.Context, changed func(slept bool))

	// Welcomed is told what the server says on every carrier that it takes; it must not wait,
	// and is called concurrently. nil: nobody is told.
	Welcomed func(tunnel.Welcome)

	// Log gets what happens to the session. nil means slog.Default.
	Log *slog.Logger
}

// Client holds a session with the server while Serve runs. The session, and with
// it every open connection, outlives its carriers. Methods are safe for concurrent
// use.
type Client struct {
	cfg   Config
	ways  *ways
	stirs *stirs

	logins logins

	mu      sync.Mutex
	session *session      // nil while there is none
	changed chan struct{} // closed and made anew when session changes
	over    bool          // there will be no session any more
	why     error         // why there is none; nil before the first attempt
	since   time.Time
	retry   time.Time
	last    tunnel.Protection // of the last session's last carrier
	retired []*session        // what the server drains, the oldest first
	full    time.Time         // when the log said last that the server allows no more streams
}

// New gives a client. Nothing happens before Serve.
func New(cfg Config) *Client {
	if cfg.Patience == 0 {
		cfg.Patience = 15 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Network == nil {
		cfg.Network = watchNetwork
	}
	return &Client{cfg: cfg, ways: newWays(cfg), stirs: newStirs(), changed: make(chan struct{}), since: time.Now()}
}

// Bounds on what a server can make a client do.
const (
	attachLimit = 20 * time.Second // of one attempt to reach it
	maxStreams  = 1 << 16          // in one session, whatever it allows
	maxRetired  = 8                // sessions that it drains; of more, the oldest ends
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
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel() // ends the sessions that the server drains
	parts.Go(func() { c.cfg.Network(ctx, c.stirs.stir) })
	var p pace
	for {
		held, err := c.hold(ctx, &parts)
		switch {
		case ctx.Err() != nil:
			c.stop(errStopped)
			return nil
		case final(err):
			c.stop(err)
			return err
		case held > maxPause || errors.Is(err, errDrained):
			p = pace{}
		}
		wait := p.pause()
		c.withdraw(err, wait)
		what := "session lost"
		if held == 0 {
			what = "cannot reach the server"
		}
		c.cfg.Log.Warn(what, "error", err, "retry_in", wait.Round(time.Millisecond))
		sleep(ctx, wait, c.stirs.next())
	}
}

// final tells whether there is no point in trying again.
func final(err error) bool {
	refusal, ok := errors.AsType[tunnel.Refusal](err)
	return ok && !refusal.Temporary() && refusal != tunnel.RefusedSession
}

// hold makes a session and offers it until it takes no more streams. It says
// for how long there was one, and why there is none now.
func (c *Client) hold(ctx context.Context, parts *sync.WaitGroup) (held time.Duration, err error) {
	session, err := c.begin(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	ended := make(chan error, 1)
	parts.Go(func() { ended <- session.run(ctx) })
	c.offer(session)
	c.cfg.Log.Info("connected", "carrier", session.protected().Carrier)
	select {
	case err = <-ended:
	case <-session.draining:
		err = errDrained
		c.retire(session)
		// Its streams go on. The server ends it after the last of them: it alone
		// knows when the targets have taken all that came.
	}
	return time.Since(began), err
}

// offer makes session the one that requests use.
func (c *Client) offer(session *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = session
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
		c.last = c.session.protected()
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
func (c *Client) retire(s *session) {
	c.mu.Lock()
	c.session, c.why, c.last = nil, errDrained, s.protected()
	c.change()
	c.retired = slices.DeleteFunc(c.retired, func(s *session) bool { return s.Err() != nil })
	c.retired = append(c.retired, s)
	var surplus *session
	if len(c.retired) > maxRetired {
		surplus, c.retired = c.retired[0], c.retired[1:]
	}
	c.mu.Unlock()
	if surplus != nil {
		surplus.end(tunnel.ErrClosed)
	}
}

// sleep waits for a while, or until the network has changed.
func sleep(ctx context.Context, d time.Duration, stirred <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stirred:
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
func (c *Client) await(ctx context.Context, old *session) (*session, error) {
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
	Connected  bool              // there is a session, and it has a carrier
	Since      time.Time         // when that became so
	Detached   bool              // there is a session, and it waits for a carrier: connections wait, too
	Error      string            // why there is no carrier, in words
	Retry      time.Time         // when the next attempt is made; zero while connected
	Lanes      int               // how many carriers the session should have; 0 if there is none
	Away       int               // and how many of them it has not
	AwaySince  time.Time         // since when the first of those
	Resumes    int               // how often a carrier took over from another in this session
	Replayed   int64             // bytes that this end sent again because of that
	RoundTrip  time.Duration     // 0 if it has not been measured
	Streams    int               // open now, with those in sessions that the server drains
	Opened     uint64            // since the session began
	Up, Down   int64             // bytes of streams, to the server and back, since the session began
	Protection tunnel.Protection // of the session's carrier, or the last one's
	Local      netip.AddrPort    // of the carrier; not valid where the network outside does not know it
	Remote     netip.AddrPort    // the same
	Passed     string            // why the carrier is none of a better way, in words; empty if it is of the best
}

// Status gives the state of this moment.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := Status{Connected: c.session != nil, Since: c.since, Retry: c.retry, Protection: c.last}
	if c.why != nil {
		st.Error = c.why.Error()
	}
	if c.session != nil {
		c.session.describe(&st)
	}
	for _, s := range c.retired {
		st.Streams += s.streams()
	}
	return st
}

// Enrol redeems an invite's token on a carrier: from then on the server knows
// the device as one of the invite's user. What it answers says how to reach it by WireGuard. The
// error is a [tunnel.Refusal] if the server says no.
func Enrol(ctx context.Context, carrier Carrier, device tunnel.Signer, join tunnel.Join) (tunnel.Welcome, error) {
	opening, err := join.Sign(device, carrier.Place())
	if err != nil {
		carrier.Close()
		return tunnel.Welcome{}, err
	}
	conn, answer, err := carrier.Attach(ctx, opening)
	if err != nil {
		carrier.Close()
		return tunnel.Welcome{}, err
	}
	defer conn.Close()
	return tunnel.ParseJoined(answer)
}
