package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/adit-net/adit/client/netwatch"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/udp"
)

// lane is one of a session's pipes, with the streams in it, and what keeps it
// alive. Most sessions have one.
type lane struct {
	*tunnel.Session
	client  *Client
	session *session
	number  byte
	log     *slog.Logger
	saying  chan struct{} // held by the attempt that talks to the server

	associations *udp.Mux

	carriers sync.WaitGroup

	opening int       // streams; under the session's mu
	ended   time.Time // zero while it goes on; under the session's mu

	mu         sync.Mutex
	epoch      uint64 // of the last attempt
	carrier    *tunnel.Carrier
	conn       net.Conn
	protection tunnel.Protection
	way        int       // that the carrier came
	passed     error     // why it is none of a better way
	taken      time.Time // when it was attached
	failure    error     // of the last attempt; nil once there is a carrier
	retry      time.Time // when the next one is made
	logged     time.Time // when failure was
}

// graceMore is how much longer than the server this end keeps a lane that has
// no carrier: the server decides.
const graceMore = 2 * time.Second

func graceOf(w tunnel.Welcome) time.Duration {
	return time.Duration(w.Grace)*time.Second + graceMore
}

// begin begins a lane. The first one begins the session, too, which has no id
// until then.
func (s *session) begin(ctx context.Context, number byte) (*lane, tunnel.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, attachLimit)
	defer cancel()
	c := s.client
	carrier, err := c.ways.race(ctx, len(c.ways.dial))
	if err != nil {
		return nil, tunnel.Welcome{}, err
	}
	hello := tunnel.Hello{Session: s.id, Lane: number, Epoch: 1}
	conn, welcome, err := c.attach(ctx, carrier, hello)
	if err != nil {
		return nil, welcome, err
	}
	l := &lane{client: c, session: s, number: number, log: c.cfg.Log, saying: make(chan struct{}, 1), epoch: hello.Epoch}
	if c.cfg.Lanes > 1 {
		l.log = l.log.With("lane", number)
	}
	l.Session = tunnel.New(true, tunnel.Config{
		Streams: int(min(welcome.Streams, maxStreams)),
		Grace:   graceOf(welcome),
		Log:     l.log,
	})
	l.associations = udp.New(l.Session)
	return l, welcome, l.take(conn, carrier, hello, welcome)
}

// take makes conn the lane's carrier.
func (l *lane) take(conn net.Conn, by reached, hello tunnel.Hello, welcome tunnel.Welcome) error {
	if hello.Session != [16]byte{} && (welcome.Session != hello.Session || welcome.Epoch != hello.Epoch) {
		conn.Close()
		return errors.New("attach to the server: it answers for another session")
	}
	carrier, err := l.Attach(conn, hello.Epoch, welcome.Received)
	if err != nil {
		conn.Close()
		if !errors.Is(err, tunnel.ErrStale) {
			l.Fail(err) // the server cannot go on where this end is
		}
		return fmt.Errorf("attach to the server: %w", err)
	}
	l.SetGrace(graceOf(welcome))
	l.mu.Lock()
	l.carrier, l.conn, l.protection = carrier, conn, by.Protection()
	l.way, l.passed, l.taken = by.way, by.why, time.Now()
	l.failure, l.retry = nil, time.Time{}
	l.mu.Unlock()
	l.session.tell()
	if hello.Epoch > 1 {
		l.log.Info("resumed", "carrier", by.Protection().Carrier, "after", carrier.Gap.Round(time.Millisecond),
			"replayed", carrier.Replay, "streams", l.Stats().Streams)
	}
	// The lane ends its carriers, and tells the server so.
	l.carriers.Go(func() { l.goes(carrier.Serve(context.Background())) })
	return nil
}

// goes says that a carrier is lost.
func (l *lane) goes(why error) {
	if state, _ := l.State(); state.Err == nil && !errors.Is(why, tunnel.ErrReplaced) {
		l.log.Warn("detached: connections wait", "error", why, "streams", l.Stats().Streams)
	}
}

// run keeps the lane until it is over, and says why it is.
func (l *lane) run(ctx context.Context) error {
	defer l.carriers.Wait()
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keeping.Go(func() { l.keep(ctx) })
	keeping.Go(l.watchDrain)
	keeping.Go(func() { _ = l.associations.Serve(ctx) }) // the lane's error says it all
	return l.Serve(ctx)
}

// watchDrain tells the session when the server takes no more streams.
func (l *lane) watchDrain() {
	select {
	case <-l.Draining():
		l.session.drain()
	case <-l.Done():
	}
}

// keep sees to it that the lane has a carrier until it is over.
func (l *lane) keep(ctx context.Context) {
	all := len(l.client.ways.dial)
	stirred := l.client.stirs.next()
	var improve better
	for {
		state, changed := l.State()
		switch {
		case state.Err != nil || ctx.Err() != nil:
			return
		case !state.Attached || state.Suspect:
			l.distrust()
			l.reattach(ctx, errand{ways: all})
			continue
		}
		due, stop := improve.due(l.client.ways, l.by())
		select {
		case <-changed:
		case <-due:
			improve.at = time.Time{}
			l.reattach(ctx, errand{ways: l.by(), move: true, tries: 1})
		case <-stirred:
			stirred = l.client.stirs.next()
			improve = better{at: time.Now()}
			l.client.ways.forgive()
			l.examine(ctx)
		case <-l.Done():
		}
		stop()
	}
}

// by is the way that the carrier came.
func (l *lane) by() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.way
}

// passing says why the carrier is none of a better way; nothing if it is of the
// best.
func (l *lane) passing() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.way == 0:
		return ""
	case l.passed == nil:
		return "no better one answered in time"
	}
	return l.passed.Error()
}

// pass notes why the best so many ways have given no carrier, if the one in use
// is of none of them.
func (l *lane) pass(ways int, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ways > l.way {
		return
	}
	if why != nil && (l.passed == nil || l.passed.Error() != why.Error()) {
		l.log.Info("no better carrier", "reason", why)
	}
	l.passed = why
}

// distrust notes which way a carrier came that has fallen silent.
func (l *lane) distrust() {
	state, _ := l.State()
	if !state.Suspect && !errors.Is(state.Lost, tunnel.ErrSilent) {
		return
	}
	l.mu.Lock()
	way, lived := l.way, time.Since(l.taken)
	l.mu.Unlock()
	l.client.ways.fail(way, lived)
}

// errNoAddress is why a carrier is given up whose conn can never work again.
var errNoAddress = errors.New("the address that it came from is gone")

// examine looks whether the carrier still fits the network, after that has
// changed.
func (l *lane) examine(ctx context.Context) {
	move := errand{ways: len(l.client.ways.dial), move: true, tries: moveTries}
	if l.client.stirs.slept() {
		l.reattach(ctx, move)
		return
	}
	l.mu.Lock()
	carrier, conn := l.carrier, l.conn
	l.mu.Unlock()
	local, remote, ok := addresses(conn)
	if !ok {
		l.Probe()
		return
	}
	if has, err := netwatch.Has(local); err == nil && !has {
		carrier.Drop(errNoAddress)
		return
	}
	if source, err := netwatch.Source(remote); err == nil && source != local.WithZone("") && source != local {
		l.reattach(ctx, move)
		return
	}
	l.Probe()
}

// addresses gives the ends of a TCP connection. One inside of something else has
// none that the network knows.
func addresses(conn net.Conn) (local netip.Addr, remote netip.AddrPort, ok bool) {
	near, isTCP := conn.LocalAddr().(*net.TCPAddr)
	far, isToo := conn.RemoteAddr().(*net.TCPAddr)
	inside, ok := conn.(interface{ Inside() bool })
	if !isTCP || !isToo || ok && inside.Inside() {
		return local, remote, false
	}
	return near.AddrPort().Addr().Unmap(), far.AddrPort(), true
}

// ends are those of the carrier, if there is one and the network outside knows them.
func (l *lane) ends() (local, remote netip.AddrPort) {
	if state, _ := l.State(); !state.Attached {
		return local, remote
	}
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	near, far, ok := addresses(conn)
	if !ok {
		return local, remote
	}
	return netip.AddrPortFrom(near, 0), far
}

// protected is the protection of the last carrier.
func (l *lane) protected() tunnel.Protection {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.protection
}

// usable tells whether the lane can have another stream at once.
func (l *lane) usable() bool {
	state, _ := l.State()
	return state.Attached && l.Err() == nil
}

// load says how much the lane has to do; of two, the one is less that has the
// first smaller number. The caller holds the session's mu.
//
// What counts are the streams that move bytes. To count all lets idle ones
// decide: in a model of four lanes, with four streams of five idle, transfers took half
// as long again, and ten times as long where lanes were begun anew. The rate of
// a lane is no measure at all: one that has become slow looks idle, and is
// given everything.
func (l *lane) load() [3]int {
	suspect := 0
	if state, _ := l.State(); state.Suspect {
		suspect = 1
	}
	return [3]int{suspect, l.Busy() + l.opening, l.Stats().Streams}
}

// count adds the lane's figures to a status.
func (l *lane) count(st *Status) {
	state, _ := l.State()
	stats := l.Stats()
	st.Streams += stats.Streams
	st.Opened += stats.Opened
	st.Up += stats.Sent
	st.Down += stats.Received
	st.Resumes += state.Resumes
	st.Replayed += state.Replayed
	if st.RoundTrip == 0 || stats.RoundTrip != 0 && stats.RoundTrip < st.RoundTrip {
		st.RoundTrip = stats.RoundTrip
	}
}

// away tells since when the lane has had no carrier; zero if it has one. The
// caller holds the session's mu.
func (l *lane) away() time.Time {
	state, _ := l.State()
	switch {
	case !l.ended.IsZero():
		return l.ended
	case state.Attached:
		return time.Time{}
	}
	return state.Since
}

// excuse adds to a status why the lane has no carrier.
func (l *lane) excuse(st *Status) {
	state, _ := l.State()
	l.mu.Lock()
	defer l.mu.Unlock()
	st.Retry = l.retry
	switch {
	case l.failure != nil:
		st.Error = l.failure.Error()
	case state.Lost != nil:
		st.Error = state.Lost.Error()
	}
}
