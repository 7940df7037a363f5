package server

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// extent is a session of several lanes, as its device sees it.
type extent struct {
	h     *house
	key   *keys.Device
	id    [16]byte
	lanes []*guest
}

// attachLanes begins a session of some lanes.
func (h *house) attachLanes(key *keys.Device, lanes byte) *extent {
	h.t.Helper()
	x := &extent{h: h, key: key}
	for number := range lanes {
		x.lanes = append(x.lanes, x.begin(number))
	}
	return x
}

// begin begins a lane, and with the first one the session.
func (x *extent) begin(number byte) *guest {
	h := x.h
	h.t.Helper()
	answer, serve := h.come(x.hello(number, 1))
	welcome, err := tunnel.ParseAnswer(answer)
	h.must(err)
	if welcome.Lanes != tunnel.MaxLanes || x.id != [16]byte{} && welcome.Session != x.id {
		h.t.Errorf("welcome %+v", welcome)
	}
	x.id = welcome.Session
	near, far := tunneltest.Link(tunneltest.Path{})
	done := make(chan struct{})
	h.running.Go(func() {
		defer close(done)
		serve(h.ctx, far)
	})
	g := &guest{tunnel.New(true, tunnel.Config{Grace: time.Minute}), h.t, near, done, nil}
	carrier, err := g.Attach(near, 1, 0)
	h.must(err)
	h.running.Go(func() { _ = carrier.Serve(context.Background()) })
	h.running.Go(func() { _ = g.Serve(h.ctx) })
	for deadline := time.Now().Add(patience); !x.has(number); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("the server does not begin lane %d", number)
		}
	}
	return g
}

// has tells whether the server has the lane of a number.
func (x *extent) has(number byte) bool {
	x.h.mu.Lock()
	defer x.h.mu.Unlock()
	s := x.h.sessions[x.id]
	return s != nil && s.lanes[number] != nil
}

func (x *extent) hello(number byte, epoch uint64) []byte {
	return tunnel.Hello{Session: x.id, Lane: number, Epoch: epoch}.Sign(x.key, here)
}

// resume has a lane go on with its second carrier, which comes from elsewhere.
func (x *extent) resume(number byte, from string) {
	h, g := x.h, x.lanes[number]
	h.t.Helper()
	hello := tunnel.Hello{Session: x.id, Lane: number, Epoch: 2, Received: g.Received()}
	answer, serve := h.Admit(h.ctx, tunnel.Arrival{Opening: hello.Sign(x.key, here), Place: here, Remote: netip.MustParseAddrPort(from)})
	welcome, err := tunnel.ParseAnswer(answer)
	h.must(err)
	near, far := tunneltest.Link(tunneltest.Path{})
	h.running.Go(func() { serve(h.ctx, far) })
	carrier, err := g.Attach(near, 2, welcome.Received)
	h.must(err)
	h.running.Go(func() { _ = carrier.Serve(context.Background()) })
}

// refused asserts how a HELLO is refused.
func (x *extent) refused(number byte, epoch uint64, want tunnel.Refusal) {
	x.h.t.Helper()
	answer, serve := x.h.come(x.hello(number, epoch))
	if _, err := tunnel.ParseAnswer(answer); !errors.Is(err, want) || serve != nil {
		x.h.t.Errorf("lane %d in epoch %d: %v, want %v", number, epoch, err, want)
	}
}

// status waits until the server's only session is as it must be.
func (h *house) status(what string, is func(Status) bool) Status {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		all := h.Status()
		if len(all) == 1 && is(all[0]) {
			return all[0]
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("no %s: status %+v", what, all)
		}
	}
}

func TestSessionOfEightLanesCountsOnce(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Sessions = 1 })
	x := h.attachLanes(h.device("anna"), tunnel.MaxLanes)
	port := echoTarget(t)
	for _, g := range x.lanes {
		exchange(t, g.connect(port), "hello")
	}
	st := h.status("session of eight lanes", func(st Status) bool { return st.Carriers == tunnel.MaxLanes })
	if st.Lanes != tunnel.MaxLanes || st.Streams != tunnel.MaxLanes || st.User != "anna" || st.Remote.Port() != 4711 {
		t.Errorf("status %+v", st)
	}
	answer, _ := h.hello(h.device("bob"))
	wantRefusal(t, answer, tunnel.RefusedBusy)
	if n := len(h.log.find(t, "session begun")); n != 1 {
		t.Errorf("%d sessions begun", n)
	}
}

func TestLaneIsTakenByItsDeviceAlone(t *testing.T) {
	h := newHouse(t, nil)
	x := h.attachLanes(h.device("anna"), 2)
	stream := x.lanes[1].connect(echoTarget(t))
	for _, other := range []string{"anna", "bob"} {
		thief := &extent{h: h, key: h.device(other), id: x.id}
		thief.refused(1, 1, tunnel.RefusedSession)
		thief.refused(1, 2, tunnel.RefusedSession)
		thief.refused(2, 1, tunnel.RefusedSession)
	}
	x.refused(1, 1, tunnel.RefusedStale)              // it is there
	x.refused(2, 2, tunnel.RefusedSession)            // there is none to go on with
	x.refused(tunnel.MaxLanes, 1, tunnel.RefusedBusy) // more than there may be
	x.refused(255, 2, tunnel.RefusedBusy)
	exchange(t, stream, "undisturbed")
	if st := h.Status()[0]; st.Lanes != 2 || st.Resumes != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestLaneEndsAloneAndIsBegunAnew(t *testing.T) {
	for _, number := range []byte{0, 1} {
		h := newHouse(t, nil)
		x := h.attachLanes(h.device("anna"), 2)
		port := echoTarget(t)
		stays := x.lanes[1-number].connect(port)
		exchange(t, stays, "hello")
		exchange(t, x.lanes[number].connect(port), "hello")
		before := h.status("echo", func(st Status) bool { return st.Down >= 2*5 && st.Streams == 2 })

		x.lanes[number].Close(0)
		after := h.status("lane ended", func(st Status) bool { return st.Lanes == 1 && st.Streams == 1 })
		if after.Opened < before.Opened || after.Up < before.Up || after.Down < before.Down {
			t.Errorf("status was %+v, is %+v", before, after)
		}
		for len(h.log.find(t, "lane ended")) == 0 { // until then there is one of its number
			time.Sleep(time.Millisecond)
		}
		exchange(t, x.begin(number).connect(port), "anew")
		exchange(t, stays, "as before")
		h.status("two lanes", func(st Status) bool { return st.Carriers == 2 })
		if n := len(h.log.find(t, "session ended")); n != 0 {
			t.Error("the session has ended")
		}
	}
}

func TestSessionIsOverWithItsLastLane(t *testing.T) {
	h := newHouse(t, nil)
	x := h.attachLanes(h.device("anna"), 3)
	for _, g := range x.lanes {
		if n := len(h.Status()); n != 1 {
			t.Errorf("%d sessions", n)
		}
		g.Close(0)
		receive(t, g.served, "the end of a lane")
	}
	ended := func() (sessions, lanes int) {
		return len(h.log.find(t, "session ended")), len(h.log.find(t, "lane ended"))
	}
	for sessions, lanes := ended(); sessions+lanes < 3; sessions, lanes = ended() { // it tells nobody else
		time.Sleep(time.Millisecond)
	}
	x.refused(0, 1, tunnel.RefusedSession)
	x.refused(2, 2, tunnel.RefusedSession)
	if sessions, lanes := ended(); sessions != 1 || lanes != 2 {
		t.Errorf("%d sessions and %d lanes ended", sessions, lanes)
	}
}

// A lane that was let in while there was a session does not bring it back.
func TestLaneThatComesTooLateBeginsNoSession(t *testing.T) {
	h := newHouse(t, nil)
	x := h.attachLanes(h.device("anna"), 1)
	answer, serve := h.come(x.hello(1, 1))
	if _, err := tunnel.ParseAnswer(answer); err != nil {
		t.Fatal(err)
	}
	x.lanes[0].Close(0)
	receive(t, x.lanes[0].served, "the end of the lane")
	for len(h.log.find(t, "session ended")) == 0 { // it tells nobody else
		time.Sleep(time.Millisecond)
	}
	near, far := tunneltest.Link(tunneltest.Path{})
	defer near.Close()
	served := make(chan struct{})
	h.running.Go(func() {
		defer close(served)
		serve(h.ctx, far)
	})
	receive(t, served, "the end of the late lane")
	if st := h.Status(); len(st) > 0 {
		t.Errorf("there is a session: %+v", st)
	}
}

// TestRevocationEndsEveryLane has seven lanes that stand still, so that they
// cannot be told.
func TestRevocationEndsEveryLane(t *testing.T) {
	h := newHouse(t, nil)
	x := h.attachLanes(h.device("anna"), tunnel.MaxLanes)
	port := echoTarget(t)
	for i, g := range x.lanes {
		exchange(t, g.connect(port), "hello")
		g.link.Stall(i > 0)
	}
	changed := time.Now()
	h.must(h.store.RevokeDevice(t.Context(), x.key.ID().String()))
	for _, g := range x.lanes {
		receive(t, g.served, "the end of a lane")
	}
	if took := time.Since(changed); took > revocationLimit {
		t.Errorf("it took %v", took)
	}
	receive(t, x.lanes[0].Done(), "the end at the device")
	if err := x.lanes[0].Err(); !errors.Is(err, tunnel.RefusedDeviceRevoked) {
		t.Errorf("the device was told %v", err)
	}
	x.refused(0, 1, tunnel.RefusedDeviceRevoked)
}

func TestDrainConcernsEveryLane(t *testing.T) {
	h := newHouse(t, nil)
	x := h.attachLanes(h.device("anna"), 3)
	stream := x.lanes[1].connect(echoTarget(t))
	drained := make(chan error, 1)
	go func() { drained <- h.Drain(t.Context()) }()
	for _, g := range x.lanes {
		receive(t, g.Draining(), "the drain")
	}
	x.refused(3, 1, tunnel.RefusedBusy)
	exchange(t, stream, "as before")
	h.must(stream.Reset())
	if err := receive(t, drained, "the end of the drain"); err != nil {
		t.Errorf("Drain gives %v", err)
	}
}

// TestOnlyASessionWithoutAnyCarrierIsGivenUp has room for one session.
func TestOnlyASessionWithoutAnyCarrierIsGivenUp(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Sessions = 1 })
	x := h.attachLanes(h.device("anna"), 2)
	for _, l := range x.lanes {
		exchange(t, l.connect(echoTarget(t)), "hello") // so that the server has heard of it
	}
	other := h.device("bob")
	x.lanes[0].link.Cut()
	st := h.status("detached lane", func(st Status) bool { return st.Carriers == 1 })
	if st.Lanes != 2 || !st.Detached.IsZero() || st.Lost != "" {
		t.Errorf("status %+v", st)
	}
	answer, _ := h.hello(other)
	wantRefusal(t, answer, tunnel.RefusedBusy)
	x.lanes[1].link.Cut()
	st = h.status("detached session", func(st Status) bool { return st.Carriers == 0 })
	if st.Lanes != 2 || st.Detached.IsZero() || st.Lost == "" {
		t.Errorf("status %+v", st)
	}
	h.attachLanes(other, 1)
	if st := h.Status(); len(st) != 1 || st[0].User != "bob" {
		t.Errorf("status %+v", st)
	}
	x.refused(0, 2, tunnel.RefusedSession)
}
