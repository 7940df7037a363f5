package server

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/tunnel"
)

// revocationLimit is how soon a change must have reached those it is about.
const revocationLimit = 2 * time.Second

// whoGoes are the ways of being sent away.
var whoGoes = map[string]struct {
	change func(*house, *keys.Device) error
	reason tunnel.Refusal
}{
	"device revoked": {func(h *house, key *keys.Device) error {
		return h.store.RevokeDevice(h.t.Context(), key.ID().String())
	}, tunnel.RefusedDeviceRevoked},
	"user disabled": {func(h *house, _ *keys.Device) error {
		return h.store.SetUserDisabled(h.t.Context(), "anna", true)
	}, tunnel.RefusedUserDisabled},
	"user removed": {func(h *house, _ *keys.Device) error {
		return h.store.RemoveUser(h.t.Context(), "anna")
	}, tunnel.RefusedDeviceRevoked},
}

func TestWhoIsSentAwayLosesRunningStreamsAndIsToldWhy(t *testing.T) {
	for name, test := range whoGoes {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			key := h.device("anna")
			leaver, stayer := h.attach(key), h.attach(h.device("bob"))
			port := echoTarget(t)
			stays := stayer.connect(port)
			stream := leaver.connect(port)
			moving := make(chan error, 1)
			go func() {
				for {
					if err := tryExchange(stream, "it moves"); err != nil {
						moving <- err
						return
					}
				}
			}()
			exchange(t, stays, "hello")
			changed := time.Now()
			h.must(test.change(h, key))
			if err := receive(t, moving, "the end of the stream"); !errors.Is(err, tunnel.ErrSessionLost) && !errors.Is(err, tunnel.ErrReset) {
				t.Errorf("the stream ended with %v", err)
			}
			receive(t, leaver.served, "the end of the session")
			if took := time.Since(changed); took > revocationLimit {
				t.Errorf("it took %v", took)
			}
			receive(t, leaver.Done(), "the end at the device")
			told, _ := errors.AsType[*tunnel.CloseError](leaver.Err())
			if told == nil || told.Reason != test.reason {
				t.Errorf("the device was told %v, want %v", leaver.Err(), test.reason)
			}
			exchange(t, stays, "still here")
		})
	}
}

// TestWhoDoesNotListenIsSentAwayAsWell has many sessions whose carriers stand
// still, so that nobody can be told anything.
func TestWhoDoesNotListenIsSentAwayAsWell(t *testing.T) {
	h := newHouse(t, nil)
	reset := make(chan error, 20)
	port := target(t, func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		reset <- err
	})
	var deaf []*guest
	for range 20 {
		g := h.attach(h.device("anna"))
		g.connect(port)
		g.link.Stall(true)
		deaf = append(deaf, g)
	}
	changed := time.Now()
	h.must(h.store.SetUserDisabled(t.Context(), "anna", true))
	for _, g := range deaf {
		receive(t, g.served, "the end of a session")
		if err := receive(t, reset, "the end at the target"); err == nil {
			t.Error("the target has seen a clean end")
		}
	}
	if took := time.Since(changed); took > revocationLimit {
		t.Errorf("it took %v", took)
	}
}

func TestDrainLetsStreamsEndAndTakesNoMore(t *testing.T) {
	h := newHouse(t, nil)
	key := h.device("anna")
	g, idle := h.attach(key), h.attach(h.device("bob"))
	port := echoTarget(t)
	stream := g.connect(port)
	idle.connect(port).Reset()
	drained := make(chan error, 1)
	go func() { drained <- h.Drain(t.Context()) }()
	receive(t, g.Draining(), "the drain")
	if _, err := g.Open(t.Context()); !errors.Is(err, tunnel.ErrDraining) {
		t.Errorf("Open gives %v", err)
	}
	answer, serve := h.hello(key)
	wantRefusal(t, answer, tunnel.RefusedBusy)
	if serve != nil {
		t.Error("another session is served")
	}
	receive(t, idle.served, "the end of the idle session")
	exchange(t, stream, "as before")
	select {
	case err := <-drained:
		t.Fatalf("Drain gives %v while a stream is open", err)
	default:
	}
	_ = stream.CloseWrite() // the session may be over before it returns
	if rest, err := io.ReadAll(stream); err != nil || len(rest) != 0 {
		t.Errorf("the rest is %q, %v", rest, err)
	}
	if err := receive(t, drained, "the end of the drain"); err != nil {
		t.Errorf("Drain gives %v", err)
	}
	receive(t, g.served, "the end of the session")
	if told, _ := errors.AsType[*tunnel.CloseError](g.Err()); told == nil || told.Reason != 0 {
		t.Errorf("the device was told %v", g.Err())
	}
}

func TestDrainGivesUpWithItsContextAndCutsOffTheRest(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	stream := g.connect(echoTarget(t))
	exchange(t, stream, "hello")
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan error, 1)
	go func() { drained <- h.Drain(ctx) }()
	receive(t, g.Draining(), "the drain")
	cancel()
	if err := receive(t, drained, "the end of the drain"); !errors.Is(err, context.Canceled) {
		t.Errorf("Drain gives %v", err)
	}
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrSessionLost) {
		t.Errorf("Read gives %v", err)
	}
}

func TestStatusTellsOfEverySession(t *testing.T) {
	h := newHouse(t, nil)
	before := time.Now()
	key := h.device("anna")
	first := h.attach(key)
	port := echoTarget(t)
	exchange(t, first.connect(port), "hello")
	second := h.attach(h.device("bob"))
	second.connect(port)
	all := h.Status()
	if len(all) != 2 {
		t.Fatalf("%d sessions", len(all))
	}
	a, b := all[0], all[1]
	if a.User != "anna" || b.User != "bob" || a.Device != "laptop" || !a.Key.Equal(key.Public()) || a.ID == b.ID ||
		a.Remote.String() != "192.0.2.7:4711" || a.Since.Before(before) || b.Since.Before(a.Since) {
		t.Errorf("status %+v and %+v", a, b)
	}
	if a.Streams != 1 || a.Opened != 1 || a.Up == 0 || a.Down == 0 || b.Streams != 1 {
		t.Errorf("figures %+v and %+v", a, b)
	}
	first.Close(0)
	receive(t, first.served, "the end of the session")
	if n := len(h.Status()); n != 1 {
		t.Errorf("%d sessions", n)
	}
}
