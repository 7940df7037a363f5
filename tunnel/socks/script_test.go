package socks

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// script is the conn of an app that sends pieces, one for each Read, and then
// nothing more: a deadline that is set then passes at once.
type script struct {
	pause time.Duration // before each piece

	mu       sync.Mutex
	changed  *sync.Cond
	pieces   [][]byte
	deadline time.Time // for reading
	relayed  bool      // the target is read from: the app may end
	closed   bool
	answers  bytes.Buffer
	remote   net.Addr
}

func newScript(pieces ...[]byte) *script {
	s := &script{pieces: pieces, remote: &net.UnixAddr{Net: "unix"}}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *script) Read(b []byte) (int, error) {
	time.Sleep(s.pause)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case !s.deadline.IsZero() && s.deadline.Before(time.Now()):
			return 0, os.ErrDeadlineExceeded
		case len(s.pieces) > 0:
			n := copy(b, s.pieces[0])
			if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
				s.pieces = s.pieces[1:]
			}
			return n, nil
		case !s.deadline.IsZero():
			return 0, os.ErrDeadlineExceeded
		case s.relayed:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *script) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	return s.answers.Write(b)
}

func (s *script) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

func (s *script) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	s.changed.Broadcast()
	return nil
}

func (s *script) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relayed = true
	s.changed.Broadcast()
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
	return nil
}

func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) CloseWrite() error                { return nil }
func (s *script) Reset() error                     { return s.Close() }
func (s *script) LocalAddr() net.Addr              { return s.remote }
func (s *script) RemoteAddr() net.Addr             { return s.remote }

// sink is the conn of a target that takes everything and ends when it has it
// all.
type sink struct {
	*script // its app's; nil if nothing of it is needed
	got     *bytes.Buffer
	ended   chan struct{}
	once    *sync.Once
}

func newSink(app *script) sink {
	return sink{app, new(bytes.Buffer), make(chan struct{}), new(sync.Once)}
}

func (s sink) Read([]byte) (int, error) {
	if s.script != nil {
		s.end()
	}
	<-s.ended
	return 0, io.EOF
}

func (s sink) Write(b []byte) (int, error) { return s.got.Write(b) }

// all waits for the end and gives everything up to it.
func (s sink) all() string { <-s.ended; return s.got.String() }

func (s sink) CloseWrite() error { s.once.Do(func() { close(s.ended) }); return nil }
func (s sink) Close() error      { return s.CloseWrite() }
func (s sink) Reset() error      { return s.CloseWrite() }

// outcome is everything that a door's handling of one app comes to.
type outcome struct {
	asked   []Request
	answers string
	got     string // by the targets
}

// recorder is a relay that notes what it is asked for.
type recorder struct {
	Unserved
	app     *script // nil if it comes over a real socket
	fails   error
	allowed func() bool // nil for always

	mu    sync.Mutex
	asked []Request
	sinks []sink
}

func (r *recorder) Connect(_ context.Context, q Request) (relay.Conn, Reply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.allowed != nil && !r.allowed() {
		panic("the relay was reached without authentication")
	}
	r.asked = append(r.asked, q)
	if r.fails != nil {
		return nil, Reply{}, r.fails
	}
	if q.Dialect == HTTPForward {
		return nil, Reply{}, HostUnreachable // a sink does not speak HTTP
	}
	if q.Dst.String() == nameService.String() && len(q.Initial) > 0 && q.Dialect != SOCKS6 {
		return answerNames(q.Initial), Reply{}, nil
	}
	s := newSink(r.app)
	s.got.Write(q.Initial)
	r.sinks = append(r.sinks, s)
	return s, Reply{Bound: netip.MustParseAddrPort("203.0.113.1:40000")}, nil
}

// Bind gives a port to which a peer comes at once, unless nobody ever does: whom the
// app expects at port 9.
func (r *recorder) Bind(ctx context.Context, q Request) (Binding, Reply, error) {
	_, reply, err := r.Connect(ctx, q)
	if err != nil {
		return nil, reply, err
	}
	return recorded{r, q.Dst}, reply, nil
}

// recorded is a port of a recorder's.
type recorded struct {
	*recorder
	dst Addr
}

func (b recorded) Accept(context.Context) (relay.Conn, Reply, error) {
	if b.dst.Port == 9 {
		return nil, Reply{}, TimedOut
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sinks[len(b.sinks)-1], Reply{Bound: netip.MustParseAddrPort("192.0.2.10:20")}, nil
}

func (b recorded) Close() error { return nil }

func (r *recorder) requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// run lets a door handle one app and gives what comes of it.
func run(t testing.TB, d *Door, app *script) outcome {
	t.Helper()
	r := d.Relay.(*recorder)
	r.app, r.asked, r.sinks = app, nil, nil
	s := &serving{Door: *d, free: make(chan struct{}, 1)}
	s.Log = slog.New(slog.DiscardHandler)
	s.HandshakeTimeout = DefaultHandshakeTimeout
	a, err := newApp(s, app)
	if err != nil {
		t.Fatal(err)
	}
	if _ = a.serve(t.Context()); a.target != nil {
		relay.Copy(t.Context(), a.conn, a.target)
	}
	o := outcome{asked: r.asked, answers: withoutID(withoutDate(app.answers.String()))}
	for _, s := range r.sinks {
		o.got += s.got.String()
	}
	return o
}

// withoutID drops what differs between two answers alike that tell of a new session of
// SOCKS 6.
func withoutID(answers string) string {
	head := "\x00\x06\x00" + string([]byte{4 + sessionBytes6})
	before, after, found := strings.Cut(answers, head)
	if !found || len(after) < sessionBytes6 {
		return answers
	}
	return before + head + after[sessionBytes6:]
}

// withoutDate drops what differs between two HTTP responses alike.
func withoutDate(response string) string {
	before, after, found := strings.Cut(response, "\r\nDate: ")
	if !found {
		return response
	}
	_, after, _ = strings.Cut(after, "\r\n")
	return before + "\r\n" + withoutDate(after)
}

// octets splits b into pieces of one byte.
func octets(b []byte) (pieces [][]byte) {
	for i := range b {
		pieces = append(pieces, b[i:i+1:i+1])
	}
	return pieces
}
