package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
)

// startLanes runs a client with some lanes, and waits for all that the hub
// allows. They come in the order of their numbers.
func startLanes(t *testing.T, h *hub, lanes int) (*serving, []*hubSession) {
	t.Helper()
	h.set(func() { h.lanes = tunnel.MaxLanes })
	c := start(t, h, func(cfg *client.Config) { cfg.Lanes = lanes })
	all := make([]*hubSession, lanes)
	for range lanes {
		s := h.session(t)
		all[s.lane] = s
	}
	for _, s := range all { // a lane on which nothing was heard ends with its carrier
		until(t, func() bool { state, _ := s.State(); return state.RoundTrip > 0 })
	}
	until(t, func() bool { return c.Status().Away == 0 })
	return c, all
}

// streams is how many streams each lane has.
func streams(lanes []*hubSession) (n []int) {
	for _, s := range lanes {
		n = append(n, s.Stats().Streams)
	}
	return n
}

func TestLanesShareTheStreamsOut(t *testing.T) {
	h := newHub(t, nil)
	c, lanes := startLanes(t, h, 4)
	var opening sync.WaitGroup
	for range 32 { // all at once: none knows yet what the others add
		opening.Go(func() {
			conn, _, err := c.Connect(t.Context(), target)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { conn.Close() })
		})
	}
	opening.Wait()
	for lane, n := range streams(lanes) {
		if n < 4 || n > 12 { // for a moment a stream counts twice, or as idle already
			t.Errorf("lane %d has %d streams, want about 8", lane, n)
		}
	}
	if st := c.Status(); st.Lanes != 4 || st.Away != 0 || st.Streams != 32 || st.Opened != 32 || !st.Connected {
		t.Errorf("status %+v", st)
	}
}

func TestServerMayAllowFewerLanes(t *testing.T) {
	for _, test := range []struct {
		allowed, asked byte
		want           int
	}{{0, 4, 1}, {1, 4, 1}, {2, 4, 2}, {255, 8, 8}, {255, 255, 8}, {8, 0, 1}} {
		h := newHub(t, nil)
		h.lanes = test.allowed
		c := start(t, h, func(cfg *client.Config) { cfg.Lanes = int(test.asked) })
		for range test.want {
			h.session(t)
		}
		until(t, func() bool { st := c.Status(); return st.Lanes > 0 && st.Away == 0 })
		if st := c.Status(); st.Lanes != test.want || len(h.sessions) != 0 {
			t.Errorf("%d of %d allowed: %d lanes, and %d more", test.asked, test.allowed, st.Lanes, len(h.sessions))
		}
		c.stop()
	}
}

// onEach opens a stream in each lane, in their order.
func onEach(t *testing.T, c *serving, lanes []*hubSession) []relay.Conn {
	t.Helper()
	conns := make([]relay.Conn, len(lanes))
	for range lanes {
		before := streams(lanes)
		conn := c.connect(t)
		t.Cleanup(func() { conn.Close() })
		for lane, n := range streams(lanes) {
			if n > before[lane] {
				conns[lane] = conn
			}
		}
	}
	return conns
}

func TestLaneIsResumedAlone(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c, lanes := startLanes(t, h, 3)
	conns := onEach(t, c, lanes)
	for range 20 {
		lanes[1].cut(nil)
		for _, conn := range conns {
			say(t, conn, "hello")
		}
	}
	if st := c.Status(); st.Resumes < 20 || len(h.sessions) != 0 {
		t.Errorf("status %+v", st)
	}
	for lane, want := range []bool{false, true, false} {
		if state, _ := lanes[lane].State(); state.Resumes > 0 != want {
			t.Errorf("lane %d was resumed %d times", lane, state.Resumes)
		}
	}
}

func TestLaneWithoutACarrierGetsNoStreams(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c, lanes := startLanes(t, h, 3)
	began := time.Now()
	h.set(func() { h.away = errAway })
	lanes[0].cut(nil)
	until(t, func() bool { return c.Status().Away == 1 })
	for range 8 {
		conn := c.connect(t)
		defer conn.Close()
		say(t, conn, "hello")
	}
	if n := streams(lanes); n[0] != 0 || n[1] != 4 || n[2] != 4 {
		t.Errorf("streams %v", n)
	}
	if st := c.Status(); !st.Connected || st.Detached || st.Error != "" || st.AwaySince.Before(began) {
		t.Errorf("status %+v", st)
	}
	h.set(func() { h.away = nil })
	until(t, func() bool { return c.Status().Away == 0 })
	conn := c.connect(t)
	defer conn.Close()
	if n := streams(lanes); n[0] != 1 {
		t.Errorf("streams %v after the lane has come back", n)
	}
}

func TestStreamsThatMoveNothingDoNotCount(t *testing.T) {
	h := newHub(t, nil)
	c, lanes := startLanes(t, h, 2)
	var idle, busy []relay.Conn
	for len(idle) < 4 {
		both := onEach(t, c, lanes)
		busy, idle = append(busy, both[0]), append(idle, both[1])
	}
	for _, conn := range busy[:2] {
		conn.Close()
	}
	until(t, func() bool {
		n := streams(lanes)
		return n[0] == 2 && n[1] == 4 && lanes[0].Busy()+lanes[1].Busy() == 0
	})
	for _, conn := range busy[2:] {
		say(t, conn, "hello")
	}
	conn := c.connect(t)
	defer conn.Close()
	if n := streams(lanes); n[1] != 5 {
		t.Errorf("streams %v: the new one is in the lane where others move", n)
	}
}

func TestRequestWaitsUntilOneLaneHasACarrier(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c, lanes := startLanes(t, h, 2)
	h.set(func() { h.away = errAway })
	lanes[0].cut(nil)
	lanes[1].cut(nil)
	until(t, func() bool { st := c.Status(); return st.Detached && st.Away == 2 && st.Error == errAway.Error() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := c.Connect(ctx, target); !errors.Is(err, tunnel.ErrDetached) {
		t.Errorf("connect: %v", err)
	}
	done := make(chan error, 1)
	go func() { _, _, err := c.Connect(t.Context(), target); done <- err }()
	h.set(func() { h.away = nil })
	if err := receive(t, done, "the answer"); err != nil {
		t.Error(err)
	}
}

// TestLostLaneBreaksItsStreamsAlone has the server lose one lane. It is begun
// anew in the same session.
func TestLostLaneBreaksItsStreamsAlone(t *testing.T) {
	for _, lost := range []int{0, 2} { // the first lane is like the others
		h := newHub(t, nil)
		h.grace = time.Minute
		c, lanes := startLanes(t, h, 3)
		conns := onEach(t, c, lanes)
		lanes[lost].lose()
		conns[lost].SetDeadline(time.Now().Add(patience))
		if _, err := conns[lost].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
		again := h.session(t)
		if again.id != lanes[lost].id || int(again.lane) != lost {
			t.Errorf("lane %d of session %d came, want %d of %d", again.lane, again.id, lost, lanes[lost].id)
		}
		for lane, conn := range conns {
			if lane != lost {
				say(t, conn, "still here")
			}
		}
		until(t, func() bool { return c.Status().Away == 0 })
		conn := c.connect(t)
		say(t, conn, "hello")
		conn.Close()
		if n := again.Stats().Opened; n != 1 {
			t.Errorf("the new lane has got %d streams", n)
		}
		if st := c.Status(); st.Opened != 4 || st.Lanes != 3 {
			t.Errorf("status %+v", st)
		}
		c.stop()
	}
}

func TestSessionIsOverWithItsLastLane(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c, lanes := startLanes(t, h, 3)
	h.set(func() { h.away = errAway }) // no lane is begun anew in time
	conns := onEach(t, c, lanes)
	for lane, conn := range conns {
		lanes[lane].lose()
		h.set(func() { h.away = nil })
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
		h.set(func() { h.away = errAway })
	}
	h.set(func() { h.away = nil })
	say(t, c.connect(t), "hello")
}

func TestRequestFailsOverToAnotherLane(t *testing.T) {
	var h *hub
	var lanes []*hubSession
	var lost atomic.Bool // a lane that is counts its stream for a while
	h = newHub(t, func(_ context.Context, s *tunnel.Stream) {
		for _, l := range lanes[1:] {
			if l.Stats().Streams > 0 && lost.CompareAndSwap(false, true) {
				l.lose()
				return
			}
		}
		echo(h.ctx, s)
	})
	h.grace = time.Minute
	h.lanes = tunnel.MaxLanes
	c, all := startLanes(t, h, 2)
	lanes = all
	for range 2 { // one of them begins in the second lane
		conn := c.connect(t)
		defer conn.Close()
		say(t, conn, "hello")
	}
	if n := lanes[0].Stats().Streams; n != 2 {
		t.Errorf("the first lane has %d streams", n)
	}
}

func TestDrainConcernsAllLanes(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c, lanes := startLanes(t, h, 3)
	conns := onEach(t, c, lanes)
	h.running.Go(func() { lanes[2].Drain(h.ctx) })
	next := h.session(t)
	if next.id == lanes[0].id {
		t.Error("a lane of the drained session came")
	}
	conn := c.connect(t)
	defer conn.Close()
	for _, conn := range append(conns, conn) {
		say(t, conn, "hello")
	}
	if st := c.Status(); st.Streams != 4 || st.Opened != 1 {
		t.Errorf("status %+v", st)
	}
	if n := lanes[0].Stats().Opened + lanes[1].Stats().Opened; n != 2 {
		t.Errorf("the other lanes have had %d streams", n)
	}
}

func TestEndWithAReasonConcernsAllLanes(t *testing.T) {
	h := newHub(t, nil)
	h.grace = time.Minute
	c, lanes := startLanes(t, h, 3)
	conns := onEach(t, c, lanes)
	lanes[1].Close(tunnel.RefusedDeviceRevoked)
	wantRefused(t, c, tunnel.RefusedDeviceRevoked)
	for _, conn := range conns {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrSessionLost) {
			t.Errorf("read: %v", err)
		}
	}
}
