package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
)

// succession is what a server does for those that come after it.
type succession struct {
	socket string        // where they find it; "" until there are any
	done   chan struct{} // closed when one has taken over

	upgrading sync.Mutex // held while a successor is being started

	mu        sync.Mutex
	leaving   bool // arrivals of unknown sessions are the successor's from now on
	followers int
	changed   chan struct{} // closed and made anew when followers changes
}

func newSuccession() *succession {
	return &succession{done: make(chan struct{}), changed: make(chan struct{})}
}

func (s *succession) setLeaving(leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = leaving
}

func (s *succession) isLeaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving
}

// follow counts a follower in, or out.
func (s *succession) follow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followers += n
	close(s.changed)
	s.changed = make(chan struct{})
}

// followed tells whether anybody follows, and gives a channel that is closed
// when that may have changed.
func (s *succession) followed() (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.followers > 0, s.changed
}

// routes are what followers and commands ask.
func (p *serverProcess) routes(ctx context.Context) []route {
	return []route{
		{"POST /upgrade", p.answerUpgrade},
		{"POST /policy", p.answerPolicy},
		{"GET /top", p.answerTop},
		{"POST /judge", p.answerJudge},
		{"POST /carry", func(w http.ResponseWriter, r *http.Request) { p.answerCarry(ctx, w, r) }},
		{"POST /follow", func(w http.ResponseWriter, r *http.Request) { p.answerFollow(ctx, w) }},
	}
}

// answerJudge says what this process makes of an arrival, and changes nothing.
func (p *serverProcess) answerJudge(w http.ResponseWriter, r *http.Request) {
	a, err := readArrival(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// Whoever asks may have got an answer elsewhere and gone: that is no error.
	answer, _ := p.judge(context.WithoutCancel(r.Context()), a)
	if refused(answer, tunnel.RefusedSession) {
		answer = nil
	}
	reply(w, verdict{Answer: answer})
}

// answerCarry uses the connection as the carrier of an arrival.
func (p *serverProcess) answerCarry(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	a, err := readArrival(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, serve := p.judge(r.Context(), a)
	if serve == nil {
		http.Error(w, "it would be refused", http.StatusConflict)
		return
	}
	conn := switchOver(w)
	if conn == nil {
		return
	}
	defer conn.Close()
	// What waits in here waits before a carrier that has a queue of its own.
	_ = conn.(*net.UnixConn).SetWriteBuffer(carryBuffer)
	serve(ctx, conn)
}

// carryBuffer is how many bytes may be on their way to the process that has the
// carrier.
const carryBuffer = 64 << 10

// answerFollow counts whoever asks among the followers while the connection
// lasts.
func (p *serverProcess) answerFollow(ctx context.Context, w http.ResponseWriter) {
	p.succession.follow(1)
	defer p.succession.follow(-1)
	conn := switchOver(w)
	if conn == nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_, _ = conn.Read(make([]byte, 1)) // nothing ever comes
}

// readArrival reads the arrival that a follower passes on.
func readArrival(w http.ResponseWriter, r *http.Request) (tunnel.Arrival, error) {
	message, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxArrival))
	if err != nil {
		return tunnel.Arrival{}, err
	}
	return unpackArrival(message)
}

// switchOver takes the connection over from HTTP; nil if the asker has gone.
func switchOver(w http.ResponseWriter) net.Conn {
	conn, _, err := http.NewResponseController(w).Hijack() // nothing was sent ahead
	if err != nil {
		return nil
	}
	_ = conn.SetDeadline(time.Now().Add(adminTimeout))
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: adit\r\n\r\n"); err != nil {
		_ = conn.Close() // the error says as much
		return nil
	}
	_ = conn.SetDeadline(time.Time{})
	return conn
}

// refused tells whether an answer is a certain refusal.
func refused(answer []byte, with tunnel.Refusal) bool {
	if answer == nil {
		return false
	}
	_, err := tunnel.ParseAnswer(answer)
	return errors.Is(err, with)
}

// Admit judges what this process's own listeners bring.
func (p *serverProcess) Admit(ctx context.Context, a tunnel.Arrival) ([]byte, func(context.Context, net.Conn)) {
	answer, serve := p.judge(ctx, a)
	if p.succession.isLeaving() && refused(answer, tunnel.RefusedSession) {
		// The successor may know it. The client comes again, and reaches that one.
		return tunnel.RefusedBusy.Bytes(), nil
	}
	return answer, serve
}

// elsewhere asks older processes about a carrier, as long as nobody comes after
// this one: who does asks them, too.
func (p *serverProcess) elsewhere(ctx context.Context, a tunnel.Arrival) ([]byte, func(context.Context, net.Conn)) {
	if p.succession.isLeaving() {
		return tunnel.RefusedSession.Bytes(), nil
	}
	return p.elders.admit(ctx, a)
}

// retire lets the sessions go on until the last one is over, stop ends, or
// nobody follows.
func (p *serverProcess) retire(stop, work context.Context) {
	defer os.Remove(p.succession.socket)
	p.log.Info("another process serves now; this one waits for its sessions to end", "sessions", len(p.server.Status()))
	select {
	case <-time.After(settle):
	case <-stop.Done():
	case <-work.Done():
	}
	p.succession.linger(stop, work, p.drain, p.cfg.Drain.Duration)
}

// settle is how long an old process goes on as if it had no successor, but for
// accepting: whoever has been accepted can have a session, and make use of it.
const settle = time.Second

// linger waits for drain. Once stop has ended, and while nobody follows, drain has
// no more than limit: then its ctx ends, as it does with work.
func (s *succession) linger(stop, work context.Context, drain func(context.Context), limit time.Duration) {
	work, cut := context.WithCancel(work)
	defer cut()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		drain(work)
	}()
	told := stop.Done()
	var late <-chan time.Time // nil: there is no hurry
	for {
		followed, changed := s.followed()
		switch hurry := !followed || stop.Err() != nil; {
		case !hurry:
			late = nil
		case late == nil:
			late = time.After(limit)
		}
		select {
		case <-drained:
			return
		case <-late:
			cut()
			<-drained
			return
		case <-told:
			told = nil
		case <-changed:
		}
	}
}
