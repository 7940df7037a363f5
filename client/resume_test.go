package client_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
)

// say sends a word, and wants it back.
func say(t *testing.T, c relay.Conn, word string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	got := make([]byte, len(word))
	if _, err := io.WriteString(c, word); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != word {
		t.Fatalf("got %q, %v; want %q", got, err, word)
	}
}

func (c *serving) connect(t *testing.T) relay.Conn {
	t.Helper()
	conn, _, err := c.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestConnectionGoesOnWhenItsCarrierIsCut(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c := start(t, h, nil)
	conn := c.connect(t)
	defer conn.Close()
	session := h.session(t)
	for range 20 {
		say(t, conn, "before")
		session.cut(nil)
		say(t, conn, "after")
	}
	if n := len(h.sessions); n != 0 {
		t.Errorf("%d sessions were begun anew", n)
	}
	if st := c.Status(); st.Resumes < 20 || !st.Connected || st.Detached {
		t.Errorf("status %+v", st)
	}
}

func TestStatusTellsOfASessionWithoutACarrier(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c := start(t, h, nil)
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	h.set(func() { h.away = errAway })
	h.session(t).cut(nil)
	until(t, func() bool { st := c.Status(); return st.Detached && st.Error == errAway.Error() })
	st := c.Status()
	if st.Connected || st.Streams != 1 || st.Retry.IsZero() || time.Since(st.Since) > patience {
		t.Errorf("status %+v", st)
	}
	h.set(func() { h.away = nil })
	say(t, conn, "hello again")
	if st := c.Status(); !st.Connected || st.Detached || st.Error != "" || !st.Retry.IsZero() {
		t.Errorf("status %+v", st)
	}
}

// TestConnectionBreaksWhenTheServerHasLostItsSession wants a reset, and a new
// session for whoever comes next.
func TestConnectionBreaksWhenTheServerHasLostItsSession(t *testing.T) {
	h := newHub(t, nil)
	c := start(t, h, nil)
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	h.session(t).lose()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	say(t, c.connect(t), "hello")
}

func TestConnectionBreaksWhenTheGraceIsOver(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Second
	c := start(t, h, nil)
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	h.set(func() { h.away = errAway })
	h.session(t).cut(nil)
	cut := time.Now()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	if took := time.Since(cut); took < time.Second || took > 6*time.Second {
		t.Errorf("it broke after %v", took)
	}
}

// TestRequestWaitsForACarrier opens no stream meanwhile, so that none piles up.
func TestRequestWaitsForACarrier(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c := start(t, h, nil)
	say(t, c.connect(t), "hello")
	h.set(func() { h.away = errAway })
	h.session(t).cut(nil)
	until(t, func() bool { return c.Status().Detached })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := c.Connect(ctx, target); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("connect: %v", err)
	}
	done := make(chan error, 1)
	go func() { _, _, err := c.Connect(t.Context(), target); done <- err }()
	h.set(func() { h.away = nil })
	if err := receive(t, done, "the answer"); err != nil {
		t.Error(err)
	}
}

// TestServerThatExpectsBytesThatWereNeverSentIsNotBelieved wants a reset: the two
// ends have not the same session any more.
func TestServerThatExpectsBytesThatWereNeverSentIsNotBelieved(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c := start(t, h, nil)
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	h.set(func() {
		h.answer = tunnel.Welcome{Session: [16]byte{1}, Epoch: 2, Received: 1 << 40, Streams: 1, Grace: 60}.Bytes()
	})
	h.session(t).cut(nil)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	h.set(func() { h.answer = nil })
	say(t, c.connect(t), "hello")
}

// TestStaleAttemptIsTriedAgain has the server answer once as if a later
// carrier were there.
func TestStaleAttemptIsTriedAgain(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c := start(t, h, nil)
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	h.set(func() { h.answer = tunnel.RefusedStale.Bytes() })
	h.session(t).cut(nil)
	until(t, func() bool { return c.Status().Error == "attach to the server: "+tunnel.RefusedStale.Error() })
	h.set(func() { h.answer = nil })
	say(t, conn, "hello again")
}

func TestRevokedDeviceIsRefusedWhenItComesBack(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c := start(t, h, nil)
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	h.set(func() { h.answer = tunnel.RefusedDeviceRevoked.Bytes() })
	h.session(t).cut(nil)
	if err := receive(t, c.ended, "the end"); !errors.Is(err, tunnel.RefusedDeviceRevoked) {
		t.Errorf("ended with %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
}

// TestSleeperMovesToANewCarrier makes before it breaks: the old carrier still
// works.
func TestSleeperMovesToANewCarrier(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	var wake atomic.Pointer[func(bool)]
	c := start(t, h, func(cfg *client.Config) {
		cfg.Network = func(ctx context.Context, changed func(bool)) { wake.Store(&changed); <-ctx.Done() }
	})
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	(*wake.Load())(true)
	until(t, func() bool { return c.Status().Resumes == 1 })
	say(t, conn, "hello")
	if st := c.Status(); !st.Connected {
		t.Errorf("status %+v", st)
	}
}

// TestChangeOfTheNetworkEndsAPause tries at once, whatever the pace says.
func TestChangeOfTheNetworkEndsAPause(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	var change atomic.Pointer[func(bool)]
	c := start(t, h, func(cfg *client.Config) {
		cfg.Network = func(ctx context.Context, changed func(bool)) { change.Store(&changed); <-ctx.Done() }
	})
	conn := c.connect(t)
	defer conn.Close()
	say(t, conn, "hello")
	h.set(func() { h.away = errAway })
	h.session(t).cut(nil)
	until(t, func() bool { return time.Until(c.Status().Retry) > time.Second })
	h.set(func() { h.away = nil })
	(*change.Load())(false)
	began := time.Now()
	say(t, conn, "hello again")
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}
