package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

func TestRequestWaitsForTheFirstSession(t *testing.T) {
	h := newHub(t, nil)
	h.away = errAway
	c := start(t, h, nil)
	connected := make(chan error, 1)
	go func() {
		conn, _, err := c.Connect(t.Context(), target)
		if err == nil {
			err = conn.Close()
		}
		connected <- err
	}()
	receive(t, h.attempts, "an attempt")
	receive(t, h.attempts, "another attempt")
	select {
	case err := <-connected:
		t.Fatalf("Connect gives %v while there is no server", err)
	default:
	}
	h.set(func() { h.away = nil })
	if err := receive(t, connected, "the answer"); err != nil {
		t.Fatal(err)
	}
}

func TestEveryRequestFailsWhenThePatienceIsOver(t *testing.T) {
	h := newHub(t, nil)
	h.away = errAway
	c := start(t, h, func(cfg *client.Config) { cfg.Patience = 300 * time.Millisecond })
	receive(t, h.attempts, "an attempt")
	began := time.Now()
	conn, reply, err := c.Connect(t.Context(), target)
	if took := time.Since(began); took < 300*time.Millisecond || took > 5*time.Second {
		t.Errorf("it failed after %v", took)
	}
	if conn != nil || reply.Code != socks.NetworkUnreachable || socks.CodeOf(err) != socks.NetworkUnreachable {
		t.Errorf("conn %v, reply %v, error %v", conn, reply, err)
	}
	if !errors.Is(err, errAway) {
		t.Errorf("%v does not say why", err)
	}
}

// TestAttemptsBecomeRare needs no session, and so runs in virtual time.
func TestAttemptsBecomeRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, nil)
		h.away = errAway
		c := start(t, h, nil)
		<-h.attempts
		last := time.Now()
		most := 100 * time.Millisecond
		for range 20 {
			<-h.attempts
			if gap := time.Since(last); gap < most/2 || gap > most {
				t.Errorf("an attempt after %v, want half of %v to all of it", gap, most)
			}
			last, most = time.Now(), min(most*3/2, 10*time.Second)
		}
		synctest.Wait()
		st := c.Status()
		if st.Connected || st.Error != errAway.Error() || !st.Retry.After(time.Now()) || time.Until(st.Retry) > 10*time.Second {
			t.Errorf("status %+v", st)
		}
	})
}

// TestServerThatDropsEverySessionIsLeftAlone counts a session that ends at once
// as a failed attempt.
func TestServerThatDropsEverySessionIsLeftAlone(t *testing.T) {
	for name, drop := range map[string]func(*hubSession){
		"close": func(s *hubSession) { s.Close(0) },
		"drain": func(s *hubSession) { s.Drain(context.Background()) },
		"cut":   func(s *hubSession) { s.lose() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t, nil)
			start(t, h, nil)
			var dropping sync.WaitGroup
			defer dropping.Wait()
			began := time.Now()
			for range 4 {
				s := h.session(t)
				dropping.Go(func() { drop(s) })
			}
			// The pauses are at least 50, 100 and 200 ms, but for a session that got
			// further than its predecessor's pause.
			if took := time.Since(began); took < 150*time.Millisecond {
				t.Errorf("four sessions within %v", took)
			}
		})
	}
}

func TestClientComesBackAfterItsSessionIsLost(t *testing.T) {
	h := newHub(t, nil)
	c := start(t, h, nil)
	for range 3 {
		conn, _, err := c.Connect(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		h.session(t).lose()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrSessionLost) {
			t.Errorf("Read gives %v", err)
		}
		conn.Close()
	}
}

func TestRefusalForGoodEndsTheClient(t *testing.T) {
	for _, refusal := range []tunnel.Refusal{tunnel.RefusedVersion, tunnel.RefusedDeviceRevoked, tunnel.RefusedUserDisabled, 77} {
		h := newHub(t, nil)
		h.answer = refusal.Bytes()
		c := start(t, h, nil)
		wantRefused(t, c, refusal)
	}
}

// wantRefused asserts that a client has ended and says why to all who ask.
func wantRefused(t *testing.T, c *serving, want tunnel.Refusal) {
	t.Helper()
	serving := receive(t, c.ended, "the end of Serve")
	_, reply, connecting := c.Connect(t.Context(), target)
	if reply.Code != socks.NetworkUnreachable {
		t.Errorf("%v: reply %+v", want, reply)
	}
	for what, err := range map[string]error{
		"Serve":   serving,
		"Ready":   c.Ready(t.Context()),
		"Connect": connecting,
	} {
		if got, _ := errors.AsType[tunnel.Refusal](err); got != want {
			t.Errorf("%s gives %v, want %v", what, err, want)
		}
	}
	if st := c.Status(); st.Connected || st.Error == "" || !st.Retry.IsZero() {
		t.Errorf("%v: status %+v", want, st)
	}
}

func TestRefusalForNowIsNoEnd(t *testing.T) {
	for _, refusal := range []tunnel.Refusal{tunnel.RefusedBusy, tunnel.RefusedSession} {
		h := newHub(t, nil)
		h.answer = refusal.Bytes()
		c := start(t, h, nil)
		receive(t, h.attempts, "an attempt")
		receive(t, h.attempts, "another attempt")
		h.set(func() { h.answer = nil })
		if err := c.Ready(t.Context()); err != nil {
			t.Errorf("%v: %v", refusal, err)
		}
	}
}

func TestAnswerThatIsNoneIsNoEnd(t *testing.T) {
	h := newHub(t, nil)
	h.answer = []byte("no answer")
	c := start(t, h, nil)
	receive(t, h.attempts, "an attempt")
	receive(t, h.attempts, "another attempt")
	h.set(func() { h.answer = nil })
	if err := c.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRevocationEndsLiveAndDrainedSessions has a stream open in a session that
// the server drains.
func TestRevocationEndsLiveAndDrainedSessions(t *testing.T) {
	h := newHub(t, nil)
	c := start(t, h, nil)
	conn, _, err := c.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	old := h.session(t)
	h.running.Go(func() { old.Drain(h.ctx) })
	next := h.session(t)
	if _, _, err := c.Connect(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	next.Close(tunnel.RefusedDeviceRevoked)
	wantRefused(t, c, tunnel.RefusedDeviceRevoked)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrSessionLost) {
		t.Errorf("Read gives %v", err)
	}
}

func TestStopEndsWhatWaits(t *testing.T) {
	h := newHub(t, nil)
	h.away = errAway
	c := start(t, h, nil)
	waiting := make(chan error, 1)
	go func() { waiting <- c.Ready(t.Context()) }()
	receive(t, h.attempts, "an attempt")
	c.stop()
	if err := receive(t, waiting, "the end of Ready"); err == nil {
		t.Error("Ready has found a session")
	}
	if err := <-c.ended; err != nil {
		t.Errorf("Serve gives %v", err)
	}
	if st := c.Status(); st.Connected || st.Error == "" {
		t.Errorf("status %+v", st)
	}
}

// TestSessionThatComesTooLateIsEnded stops the client while it attaches.
func TestSessionThatComesTooLateIsEnded(t *testing.T) {
	h := newHub(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	h.opened = func([]byte) { cancel() }
	device, err := keys.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	c := client.New(client.Config{Dial: h.dial, Device: device})
	if err := c.Serve(ctx); err != nil {
		t.Error(err)
	}
	receive(t, h.session(t).Done(), "the session's end")
}

func TestReadyGivesUpWithItsContextAndSaysWhy(t *testing.T) {
	h := newHub(t, nil)
	h.away = errAway
	c := start(t, h, nil)
	receive(t, h.attempts, "an attempt")
	receive(t, h.attempts, "another attempt") // the first one's failure is known
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errAway) {
		t.Errorf("Ready gives %v", err)
	}
}

func TestStatusTellsHowTheClientIsDoing(t *testing.T) {
	h := newHub(t, nil)
	h.away = errAway
	before := time.Now()
	c := start(t, h, nil)
	receive(t, h.attempts, "an attempt")
	receive(t, h.attempts, "another attempt")
	st := c.Status()
	if st.Connected || st.Error != errAway.Error() || st.Retry.Before(before) || st.Since.Before(before) {
		t.Errorf("while away: %+v", st)
	}
	h.set(func() { h.away = nil })
	for range 3 {
		conn, _, err := c.Connect(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	st = c.Status()
	if !st.Connected || st.Error != "" || !st.Retry.IsZero() || !st.Since.After(before) ||
		st.Streams != 3 || st.Opened != 3 || st.Protection.Carrier != "memory" || st.RoundTrip <= 0 {
		t.Errorf("while connected: %+v", st)
	}
	old := h.session(t)
	h.running.Go(func() { old.Drain(h.ctx) })
	h.session(t)
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st = c.Status(); st.Streams != 3 || st.Opened != 0 {
		t.Errorf("with a drained session: %+v", st)
	}
}

func TestEnrolSendsTheToken(t *testing.T) {
	device, err := keys.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	join := tunnel.Join{Token: [32]byte{3}, Name: "laptop"}
	for _, test := range []struct {
		answer []byte
		want   tunnel.Refusal
	}{
		{tunnel.Welcome{Key: [32]byte{7}, WireGuardPort: 8}.Bytes(), 0},
		{tunnel.RefusedInviteUsed.Bytes(), tunnel.RefusedInviteUsed},
	} {
		h := newHub(t, nil)
		h.answer = test.answer
		h.opened = func(b []byte) {
			opening, err := tunnel.OpenAt(b, h.place)
			if err != nil || opening.Join == nil || opening.Join.Token != join.Token || opening.Join.Name != "laptop" {
				t.Errorf("opening %+v, %v", opening, err)
			}
		}
		carrier, _ := h.dial(t.Context())
		welcome, err := client.Enrol(t.Context(), carrier, device, join)
		if want := (tunnel.Welcome{Key: [32]byte{7}, WireGuardPort: 8}); err == nil && welcome != want {
			t.Errorf("Enrol gives %+v", welcome)
		}
		if got, _ := errors.AsType[tunnel.Refusal](err); got != test.want || (err == nil) != (test.want == 0) {
			t.Errorf("Enrol gives %v, want %v", err, test.want)
		}
		if _, err := carrier.(*hubCarrier).near.Write([]byte{1}); err == nil {
			t.Error("the carrier is still open")
		}
	}
}

func TestWhatTheServerSaysIsPassedOn(t *testing.T) {
	h := newHub(t, nil)
	heard := make(chan tunnel.Welcome, 10)
	start(t, h, func(cfg *client.Config) { cfg.Welcomed = func(w tunnel.Welcome) { heard <- w } })
	if w := receive(t, heard, "what the server says"); w.Epoch != 1 {
		t.Errorf("it is %+v", w)
	}
}
