package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// exchange sends a word and wants it back.
func exchange(t *testing.T, conn net.Conn, word string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, word); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != word {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestConnectPassesOnWhatTheServerAnswers(t *testing.T) {
	bound := netip.MustParseAddrPort("192.0.2.1:4711")
	ok, _ := socks.AuthReply6{OK: true}.AppendBinary(nil)
	no, _ := socks.AuthReply6{}.AppendBinary(nil)
	op := func(code socks.Code) []byte {
		b, _ := socks.OperationReply6{Code: code, Bound: socks.Addr{IP: bound.Addr(), Port: bound.Port()}}.AppendBinary(nil)
		return append(append([]byte{}, ok...), b...)
	}
	reset := []byte("reset the stream")
	for name, test := range map[string]struct {
		answer []byte
		want   socks.Code
	}{
		"succeeded":        {op(socks.Succeeded), socks.Succeeded},
		"refused":          {op(socks.ConnectionRefused), socks.ConnectionRefused},
		"not allowed":      {op(socks.NotAllowed), socks.NotAllowed},
		"unknown code":     {op(200), 200},
		"no authorisation": {no, socks.NotAllowed},
		"garbage":          {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), socks.GeneralFailure},
		"nothing":          {nil, socks.GeneralFailure},
		"half an answer":   {op(socks.Succeeded)[:9], socks.GeneralFailure},
		"a reset":          {reset, socks.GeneralFailure},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan socks.Request6, 1)
			h := newHub(t, func(_ context.Context, s *tunnel.Stream) {
				q, err := socks.ReadRequest6(s)
				if err != nil {
					t.Error(err)
				}
				asked <- q
				if bytes.Equal(test.answer, reset) {
					s.Reset()
				}
				s.Write(test.answer)
			})
			c := start(t, h, nil)
			conn, reply, err := c.Connect(t.Context(), target)
			if q := <-asked; q.Command != socks.Connect || q.Dst != target.Dst {
				t.Errorf("the server was asked for %+v", q)
			}
			if reply.Code != test.want || socks.CodeOf(err) != test.want || (conn != nil) != (err == nil) {
				t.Errorf("conn %v, reply %+v, error %v", conn, reply, err)
			}
			if err == nil && reply.Bound != bound {
				t.Errorf("bound to %v", reply.Bound)
			}
		})
	}
}

func TestRequestThatIsGivenUpIsResetAtTheServer(t *testing.T) {
	begun, reset := make(chan struct{}), make(chan time.Time, 1)
	h := newHub(t, func(ctx context.Context, s *tunnel.Stream) {
		socks.ReadRequest6(s)
		close(begun)
		<-ctx.Done()
		reset <- time.Now()
	})
	c := start(t, h, nil)
	gone := errors.New("the app has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	go func() {
		_, _, err := c.Connect(ctx, target)
		result <- err
	}()
	receive(t, begun, "the request")
	given := time.Now()
	cancel(gone)
	if err := receive(t, result, "the end of Connect"); !errors.Is(err, gone) {
		t.Errorf("Connect gives %v", err)
	}
	if took := receive(t, reset, "the reset").Sub(given); took > 2*time.Second {
		t.Errorf("the server heard of it after %v", took)
	}
	// The session has not suffered, and the conn of a request that has been
	// answered does not end with its context.
	if !c.Status().Connected {
		t.Error("the session is gone")
	}
}

func TestFirstBytesGoAlongWithTheRequest(t *testing.T) {
	wish := socks.StackOption6{Leg: socks.TargetLeg6, Kind: socks.StackTTL6, Value: 64}
	did := socks.StackOption6{Leg: socks.TargetLeg6, Kind: socks.StackTTL6, Value: 63}
	h := newHub(t, func(_ context.Context, s *tunnel.Stream) {
		q, err := socks.ReadRequest6(s)
		if err != nil {
			t.Error(err)
		}
		initial, err := socks.ReadInitial6(s, q.Options.Offer)
		if err != nil || len(q.Options.Stack) == 1 && q.Options.Stack[0] != wish {
			t.Errorf("the server is asked for %+v, %v", q, err)
		}
		b, _ := socks.AuthReply6{OK: true}.AppendBinary(nil)
		b, _ = socks.OperationReply6{Options: socks.Options6{Stack: []socks.StackOption6{did}}}.AppendBinary(b)
		s.Write(append(b, initial...))
		io.Copy(s, s)
	})
	c := start(t, h, nil)
	for _, first := range []string{"", "a", strings.Repeat("early", 3276) + "data"} {
		conn, err := c.DialEarly(t.Context(), "target.example:80", []byte(first))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, "more"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(first)+4)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != first+"more" {
			t.Errorf("%d bytes: %v", len(got), err)
		}
	}
	if _, err := c.DialEarly(t.Context(), "target.example:80", make([]byte, socks.MaxInitialData6+1)); err == nil {
		t.Error("more than can go along does")
	}
	r := target
	r.Stack = []socks.StackOption6{wish}
	conn, reply, err := c.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !slices.Equal(reply.Stack, []socks.StackOption6{did}) {
		t.Errorf("done, as is said: %v", reply.Stack)
	}
}

func TestFirstBytesAreNotSentTwice(t *testing.T) {
	var h *hub
	var asked atomic.Int64
	h = newHub(t, func(_ context.Context, s *tunnel.Stream) {
		q, err := socks.ReadRequest6(s)
		if err == nil {
			_, err = socks.ReadInitial6(s, q.Options.Offer)
		}
		if err != nil {
			t.Error(err)
		}
		asked.Add(1)
		(<-h.sessions).lose()
	})
	c := start(t, h, nil)
	if _, err := c.DialEarly(t.Context(), "target.example:80", []byte("once")); err == nil {
		t.Error("connected")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestConnOutlivesTheContextOfItsRequest(t *testing.T) {
	c := start(t, newHub(t, nil), nil)
	ctx, cancel := context.WithCancel(t.Context())
	conn, _, err := c.Connect(ctx, target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	exchange(t, conn, "still here")
}

func TestDrainedSessionKeepsItsStreamsAndGetsNoMore(t *testing.T) {
	h := newHub(t, nil)
	c := start(t, h, nil)
	old, _, err := c.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	first := h.session(t)
	drained := make(chan error, 1)
	h.running.Go(func() { drained <- first.Drain(h.ctx) })
	second := h.session(t)
	for range 10 {
		conn, _, err := c.Connect(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		exchange(t, conn, "by the new session")
		exchange(t, old, "by the old session")
	}
	if n := first.Stats().Opened; n != 1 {
		t.Errorf("%d streams in the old session", n)
	}
	if n := second.Stats().Opened; n != 10 {
		t.Errorf("%d streams in the new session", n)
	}
	old.Close()
	if err := receive(t, drained, "the end of the drain"); err != nil {
		t.Error(err)
	}
	// Its target may still be busy with what came, so the end is the server's to say.
	if err := first.Err(); err != nil {
		t.Errorf("the client has ended the old session: %v", err)
	}
}

// TestNoRequestIsLostWhileSessionsAreDrained drains one session after the other
// as a server does that restarts, under load.
func TestNoRequestIsLostWhileSessionsAreDrained(t *testing.T) {
	h := newHub(t, nil)
	c := start(t, h, nil)
	var load sync.WaitGroup
	var done atomic.Bool
	var requests atomic.Int64
	defer load.Wait()
	defer done.Store(true)
	for range 8 {
		load.Go(func() {
			for !done.Load() {
				conn, _, err := c.Connect(t.Context(), target)
				if err != nil {
					t.Errorf("a request is lost: %v", err)
					return
				}
				requests.Add(1)
				conn.Close()
			}
		})
	}
	for range 6 {
		s := h.session(t)
		before := requests.Load()
		until(t, func() bool { return requests.Load() >= before+20 || t.Failed() })
		s.Drain(t.Context())
		s.Close(0)
	}
}

// TestRequestIsMadeAgainWhenItsSessionIsLost has a server that falls over each
// request, as often as the client lets it.
func TestRequestIsMadeAgainWhenItsSessionIsLost(t *testing.T) {
	for _, test := range []struct {
		falls int64
		want  socks.Code
	}{{2, socks.Succeeded}, {1000, socks.GeneralFailure}} {
		var h *hub
		var asked atomic.Int64
		h = newHub(t, func(_ context.Context, s *tunnel.Stream) {
			if _, err := socks.ReadRequest6(s); err != nil {
				return // the session before has been cut as the stream opened
			}
			session := <-h.sessions
			if asked.Add(1) > test.falls {
				accept(s)
				return
			}
			session.lose()
		})
		c := start(t, h, nil)
		conn, reply, err := c.Connect(t.Context(), target)
		if reply.Code != test.want || socks.CodeOf(err) != test.want {
			t.Errorf("reply %+v, error %v", reply, err)
		}
		if n := asked.Load(); n != 3 {
			t.Errorf("the server was asked %d times", n)
		}
		if conn != nil {
			exchange(t, conn, "hello")
			conn.Close()
		}
	}
}

func TestOnlyAFewDrainedSessionsAreKept(t *testing.T) {
	h := newHub(t, nil)
	c := start(t, h, nil)
	var sessions []*hubSession
	for range 10 {
		conn, _, err := c.Connect(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		s := h.session(t)
		sessions = append(sessions, s)
		h.running.Go(func() { s.Drain(h.ctx) })
	}
	h.session(t) // the last of the ten has been retired too
	receive(t, sessions[0].Done(), "the first session's end")
	receive(t, sessions[1].Done(), "the second session's end")
	for i, s := range sessions[2:] {
		if err := s.Err(); err != nil {
			t.Errorf("session %d has ended: %v", i+2, err)
		}
	}
}

// notebook is what a log writes to while a test reads it.
type notebook struct {
	mu   sync.Mutex
	text []byte
}

func (n *notebook) Write(line []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = append(n.text, line...)
	return len(line), nil
}

func (n *notebook) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return string(n.text)
}

func TestRequestBeyondTheStreamLimitWaits(t *testing.T) {
	h := newHub(t, nil)
	h.limit = 1
	var log notebook
	c := start(t, h, func(cfg *client.Config) {
		cfg.Patience = 300 * time.Millisecond
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	first, _, err := c.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, reply, err := c.Connect(t.Context(), target); !errors.Is(err, tunnel.ErrFull) || reply.Code != socks.GeneralFailure {
			t.Errorf("reply %+v, error %v", reply, err)
		}
	}
	if n := strings.Count(log.String(), "allows no more streams"); n != 1 {
		t.Errorf("two apps have waited in vain, and the log says so %d times:\n%s", n, &log)
	}
	first.Close()
	second, _, err := c.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

// TestServerCannotMakeTheClientAllocate allows as many streams as can be said.
// Room for them would be 32 GiB.
func TestServerCannotMakeTheClientAllocate(t *testing.T) {
	h := newHub(t, nil)
	h.limit = 1<<32 - 1
	c := start(t, h, nil)
	conn, _, err := c.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exchange(t, conn, "hello")
}

func TestDialContextRefusesWhatItCannotDo(t *testing.T) {
	c := start(t, newHub(t, nil), nil)
	for _, test := range []struct{ network, address string }{
		{"tcp4", "target.example:80"},
		{"tcp6", "target.example:80"},
		{"udp", "target.example:80"},
		{"unix", "/run/socket"},
		{"", "target.example:80"},
		{"tcp", ""},
		{"tcp", "target.example"},
		{"tcp", "target.example:"},
		{"tcp", "target.example:http"},
		{"tcp", "target.example:65536"},
		{"tcp", ":80"},
		{"tcp", "[fe80::1%eth0]:80"},
		{"tcp", "two words:80"},
	} {
		if conn, err := c.DialContext(t.Context(), test.network, test.address); err == nil {
			conn.Close()
			t.Errorf("%s %q is taken", test.network, test.address)
		}
	}
	if n := c.Status().Opened; n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestDialContextGivesANetError(t *testing.T) {
	h := newHub(t, func(_ context.Context, s *tunnel.Stream) {
		socks.ReadRequest6(s)
		answer(s, socks.ConnectionRefused)
	})
	c := start(t, h, nil)
	_, err := c.DialContext(t.Context(), "tcp", "target.example:80")
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "dial" || op.Addr.String() != "target.example:80" || !errors.Is(err, socks.ConnectionRefused) {
		t.Errorf("DialContext gives %v", err)
	}
}
