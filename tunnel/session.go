// Package tunnel keeps sessions: many reliable streams between a client and a
// server over one ordered byte pipe.
//
// A session is yamux with a guard below and flow control of its own above it. yamux numbers streams
// and knows which there are. The frames by which they begin and end, and their payload, go past
// it. Below the guard is a pipe that outlives its carriers; see package resume.
// PROTOCOL.md says byte by byte what travels.
package tunnel

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/adit-net/adit/tunnel/resume"
)

// DefaultStreams is how many streams each side of a session may have open if
// the configuration does not say.
const DefaultStreams = 10_000

// arrivals is how many of the peer's streams may wait to be handled. The guard
// holds back the next one, which takes no longer than starting a goroutine. yamux keeps a
// place for each.
const arrivals = 256

// maxStrikes is how much work for nothing a peer may cause at once, on top of
// that of all its streams: after a carrier has stood still, many of those may have been
// given up before they did anything.
const maxStrikes = 1000

// muxWindow is what each of yamux's streams lets its sender be ahead, in bytes. It never binds:
// what the guard grants is less.
const muxWindow = 4 * maxWindow

// Config says how a session behaves. The zero value is useful for a side that
// only opens streams.
type Config struct {
	// Handle serves a stream that the peer has opened, in a goroutine of its own.
	// Its ctx ends when the peer resets the stream or the session ends. The stream is
	// closed when Handle returns, or reset if ctx has ended, unless it is held: see
	// [Stream.Hold]. If it is nil, the peer may open none.
	Handle func(ctx context.Context, s *Stream)

	// Streams is how many streams each side may have open at once, and how
	// many Handle may be busy with. 0 means DefaultStreams.
	Streams int

	// Grace is how long a session of [New] outlives its last carrier, and Idle
	// how long its peer may be silent before it is asked whether it is there. 0 means no
	// time, and 20 s.
	Grace time.Duration
	Idle  time.Duration

	// Memory bounds what sessions of New keep to send again, and of datagrams, together.
	// nil means that each has its own bounds only.
	Memory *Memory

	// Log gets what yamux has to say, at debug level. nil discards it.
	Log *slog.Logger
}

// Session is one end of a session. Its methods are safe for concurrent use.
type Session struct {
	cfg    Config
	pipe   io.ReadWriteCloser
	client bool
	guard  *guard
	// resumes is pipe, if it can change its carrier.
	resumes *resume.Pipe
	out     *outbox
	budget  budget
	rtt     rttMeter
	slots   chan struct{} // one for every stream that we have opened
	arrive  chan struct{} // one for every stream of the peer's that yamux has not handed over yet

	opening sync.Mutex         // streams are opened in the order of their ids
	spares  chan *yamux.Stream // see keepSpares; nil where there are none
	noSpare error              // why spares is closed

	started  chan struct{} // closed when mux is set
	mux      *yamux.Session
	done     chan struct{} // closed when the session is over
	draining chan struct{} // closed when the peer takes no more streams

	handlers context.Context // what those of Handle are made of; Serve sets it before anything comes

	pings bucket // only the guard's reading goroutine touches it

	running sync.WaitGroup // what Serve has started, and streams that are held

	mu       sync.Mutex
	err      error // why the session is over
	streams  map[uint32]*Stream
	arrived  map[uint32]*Stream   // by the peer, and not handed over by yamux yet
	held     map[*Stream]struct{} // see Hold; nil when the session is over
	handling int
	drain    bool          // we take no more streams
	idle     chan struct{} // closed when there are no streams and no handlers left; nil while nobody waits
	strikes  bucket
	sweeper  *time.Timer
	lastOwn  uint32 // the highest stream id so far, by us
	lastPeer uint32 // and by the peer

	chatty atomic.Uint32 // the stream that has chatted last, or 0

	sent, received atomic.Int64 // payload of streams, in bytes
}

// NewSession gives a session over a pipe, which it closes in the end. One end
// must be the client. Nothing happens before Serve.
func NewSession(pipe io.ReadWriteCloser, client bool, cfg Config) *Session {
	if cfg.Streams == 0 {
		cfg.Streams = DefaultStreams
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Session{
		cfg:      cfg,
		pipe:     pipe,
		client:   client,
		out:      newOutbox(pipe),
		slots:    make(chan struct{}, cfg.Streams),
		arrive:   make(chan struct{}, arrivals),
		started:  make(chan struct{}),
		done:     make(chan struct{}),
		draining: make(chan struct{}),
		pings:    bucket{rate: 20, size: 100},
		strikes:  bucket{rate: 50, size: maxStrikes + float64(cfg.Streams)},
		streams:  make(map[uint32]*Stream),
		arrived:  make(map[uint32]*Stream),
		held:     make(map[*Stream]struct{}),
	}
	if client {
		s.spares = make(chan *yamux.Stream)
	}
	s.guard = &guard{s: s, pipe: pipe, source: attentive{pipe, s.out}}
	return s
}

// Serve runs the session until ctx ends, the peer ends it or the pipe fails,
// and says why. It returns after everything that it has started, handlers
// among it, has ended. It must be called once.
func (s *Session) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.handlers = ctx
	start := yamux.Server
	if s.client {
		start = yamux.Client
	}
	mux, err := start(s.guard, s.muxConfig())
	if err != nil {
		return fmt.Errorf("start yamux: %w", err)
	}
	s.mux = mux
	close(s.started)
	s.rtt.refresh(s)

	s.running.Go(func() { s.fail(s.out.run(s.pipe)) })
	s.running.Go(s.accept)
	if s.spares != nil {
		s.running.Go(s.keepSpares)
	}
	stop := context.AfterFunc(ctx, func() { s.fail(ErrClosed) })
	defer stop()

	<-mux.CloseChan()
	s.fail(io.ErrUnexpectedEOF) // unless there is a better reason
	cancel()
	s.cutHeld()
	mux.Close() // waits for yamux's goroutines
	s.breakStreams()
	s.running.Wait()
	return s.Err()
}

// muxConfig turns off every timer of yamux's: a pipe that stands still is not a
// pipe that is dead, and whoever knows the difference ends the session. Its window
// never binds; streams have their own.
func (s *Session) muxConfig() *yamux.Config {
	backlog := arrivals + 1
	if s.client {
		// It bounds the streams that we have opened and the peer has not
		// acknowledged, too, with those that yamux does not know to be gone, and a spare.
		backlog = s.cfg.Streams + maxDropped + 2
	}
	return &yamux.Config{
		AcceptBacklog:          backlog,
		EnableKeepAlive:        false,
		KeepAliveInterval:      time.Hour,
		ConnectionWriteTimeout: math.MaxInt64,
		MaxStreamWindowSize:    muxWindow,
		Logger:                 muxLog{s.cfg.Log},
	}
}

// control puts a frame of the guard's own into the outbox.
func (s *Session) control(kind byte, id, value uint32) {
	s.controlLater(kind, id, value)
	s.out.push()
}

// controlLater is control for the goroutine that receives: it goes out with what else
// there is before that waits again.
func (s *Session) controlLater(kind byte, id, value uint32) {
	s.frameLater(makeHeader(guardVersion, kind, 0, id, value))
}

// frameLater puts a frame without payload into the outbox. It goes out with what comes next.
func (s *Session) frameLater(h header) {
	if err := s.out.put(h[:]); err != nil {
		s.fail(err)
	}
}

// sweepPeriod is how long a stream may keep credit that it does not use.
const sweepPeriod = 5 * time.Second

// sweepLater sees to it that unused credit is given back in a while.
func (s *Session) sweepLater() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sweeper == nil && s.err == nil {
		s.sweeper = time.AfterFunc(sweepPeriod, s.sweep)
	}
}

func (s *Session) sweep() {
	s.mu.Lock()
	streams := make([]*Stream, 0, len(s.streams))
	for _, st := range s.streams {
		streams = append(streams, st)
	}
	s.sweeper = nil
	s.mu.Unlock()
	again := false
	for _, st := range streams {
		back, idle := st.send.sweep()
		if back > 0 {
			s.control(typeRelease, st.id, uint32(back))
		}
		again = again || !idle
	}
	if again {
		s.sweepLater()
	}
}

// Stats is what a session has to say about itself.
type Stats struct {
	Streams   int           // open now
	Opened    uint64        // since the start, by both sides
	RoundTrip time.Duration // the shortest measured; 0 if none
	Sent      int64         // payload of streams, in bytes
	Received  int64
}

// Add adds the figures of another session.
func (s *Stats) Add(t Stats) {
	s.Streams += t.Streams
	s.Opened += t.Opened
	s.Sent += t.Sent
	s.Received += t.Received
	if s.RoundTrip == 0 || t.RoundTrip != 0 && t.RoundTrip < s.RoundTrip {
		s.RoundTrip = t.RoundTrip
	}
}

// Stats gives figures of this moment.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Streams:   len(s.streams),
		Opened:    uint64(s.lastOwn+1)/2 + uint64(s.lastPeer+1)/2,
		RoundTrip: s.rtt.get(),
		Sent:      s.sent.Load(),
		Received:  s.received.Load(),
	}
}

// busyTime is how long a stream counts as busy after its last byte. A stream of a
// slow path moves some more often than that.
const busyTime = time.Second

// Busy gives how many streams have moved bytes just now, or are new. Most of
// those that are open at a time wait for something, and cost nothing.
func (s *Session) Busy() (n int) {
	since := time.Now().Add(-busyTime).UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if st.moved.Load() > since {
			n++
		}
	}
	return n
}

func (s *Session) localAddr() net.Addr {
	if c, ok := s.pipe.(interface{ LocalAddr() net.Addr }); ok {
		return c.LocalAddr()
	}
	return pipeAddr{}
}

func (s *Session) remoteAddr() net.Addr {
	if c, ok := s.pipe.(interface{ RemoteAddr() net.Addr }); ok {
		return c.RemoteAddr()
	}
	return pipeAddr{}
}

// pipeAddr is the address of a pipe that has none.
type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// muxLog passes on what yamux says. It is of use to developers only: whatever
// matters is an error somewhere.
type muxLog struct{ log *slog.Logger }

func (l muxLog) Print(v ...any)                 { l.say(fmt.Sprint(v...)) }
func (l muxLog) Printf(format string, v ...any) { l.say(fmt.Sprintf(format, v...)) }
func (l muxLog) Println(v ...any)               { l.say(fmt.Sprint(v...)) }

func (l muxLog) say(text string) {
	l.log.Debug("yamux", "text", strings.TrimSpace(text))
}
