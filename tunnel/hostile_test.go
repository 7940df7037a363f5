package tunnel_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// frame is a frame as PROTOCOL.md has it, made by hand: hostile peers do not
// use our code.
func frame(version, kind byte, flags uint16, stream, value uint32, body ...byte) []byte {
	b := []byte{version, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, value)
	return append(b, body...)
}

const (
	syn = 1
	ack = 2
	fin = 4
	rst = 8
)

// victim is a server's session whose peer is the test. Handlers read until the
// stream ends.
func victim(t *testing.T, streams int) (peer *tunneltest.Conn, ended <-chan error) {
	t.Helper()
	return victimThat(t, streams, func(_ context.Context, s *tunnel.Stream) { io.Copy(io.Discard, s) })
}

func victimThat(t *testing.T, streams int, handle func(context.Context, *tunnel.Stream)) (peer *tunneltest.Conn, ended <-chan error) {
	t.Helper()
	near, far := tunneltest.Link(tunneltest.Path{})
	s := tunnel.NewSession(far, false, tunnel.Config{
		Streams: streams,
		Handle:  handle,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	finished := make(chan struct{})
	go func() { defer close(finished); done <- s.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-finished; near.Close() })
	near.SetDeadline(time.Now().Add(30 * time.Second))
	return near, done
}

// wantDropped asserts that the session ends with a ProtocolError about what.
func wantDropped(t *testing.T, ended <-chan error, what string) {
	t.Helper()
	select {
	case err := <-ended:
		var broken *tunnel.ProtocolError
		if !errors.As(err, &broken) || !strings.Contains(err.Error(), what) {
			t.Fatalf("session ended with %v, want a protocol error about %q", err, what)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the offender was not dropped")
	}
}

func TestOffenderIsDroppedAtOnce(t *testing.T) {
	open := frame(0, 1, syn, 1, 0)
	data := func(n int) []byte { return frame(0, 0, 0, 1, uint32(n), make([]byte, n)...) }
	tests := map[string]struct {
		send []byte
		what string
	}{
		"even stream id":              {frame(0, 1, syn, 2, 0), "wrong id"},
		"stream id zero":              {frame(0, 1, syn, 0, 0), "wrong id"},
		"stream id again":             {append(open, open...), "old id"},
		"stream never opened":         {frame(0, 0, 0, 5, 1, 'x'), "never opened"},
		"our stream never opened":     {frame(0, 0, 0, 2, 1, 'x'), "never opened"},
		"data and open in one":        {frame(0, 0, syn, 1, 1, 'x'), "flags"},
		"reset of yamux's own":        {append(open, frame(0, 1, rst, 1, 0)...), "flags"},
		"acknowledged what we opened": {append(open, frame(0, 1, ack, 1, 0)...), "acknowledgement"},
		"two ends":                    {append(open, append(frame(0, 1, fin, 1, 0), frame(0, 1, fin, 1, 0)...)...), "after the end"},
		"data after the end":          {append(open, append(frame(0, 1, fin, 1, 0), data(1)...)...), "after the end"},
		"empty data":                  {append(open, data(0)...), "data frame"},
		"frame too long":              {append(open, frame(0, 0, 0, 1, 16<<10+1)...), "data frame"},
		"frame of 4 GiB":              {append(open, frame(0, 0, 0, 1, 1<<32-1)...), "data frame"},
		"yamux ping":                  {frame(0, 2, syn, 0, 7), "type 2"},
		"yamux go away":               {frame(0, 3, 0, 0, 0), "type 3"},
		"version 2":                   {frame(2, 0, 0, 0, 0), "version"},
		"unknown frame of the guard":  {frame(1, 99, 0, 0, 0), "type 99"},
		"credit without bound":        {append(open, frame(1, 1, 0, 1, 1<<31)...), "credit"},
		"release of nothing":          {append(open, frame(1, 2, 0, 1, 1<<31)...), "release"},
		"window overflow":             {append(open, frame(0, 1, 0, 1, 1<<32-1)...), "window overflow"},
		"window overflow by open":     {frame(0, 1, syn, 1, 1<<32-1), "window overflow"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			// A stream that has ended on both sides is none any more.
			peer, ended := victimThat(t, 0, func(ctx context.Context, _ *tunnel.Stream) { <-ctx.Done() })
			if _, err := peer.Write(test.send); err != nil {
				t.Fatal(err)
			}
			wantDropped(t, ended, test.what)
		})
	}
}

// TestPeerCannotSendMoreThanGranted uses a reader that stands still.
func TestPeerCannotSendMoreThanGranted(t *testing.T) {
	near, far := tunneltest.Link(tunneltest.Path{})
	defer near.Close()
	s := tunnel.NewSession(far, false, tunnel.Config{
		Handle: func(ctx context.Context, _ *tunnel.Stream) { <-ctx.Done() },
	})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context()) }()
	near.Write(frame(0, 1, syn, 1, 0))
	for range 1 << 20 / (16 << 10) {
		if _, err := near.Write(frame(0, 0, 0, 1, 16<<10, make([]byte, 16<<10)...)); err != nil {
			break
		}
	}
	wantDropped(t, ended, "more data than was granted")
}

// TestYamuxsWindowNeverBinds is about a peer whose yamux sends the payload, too: it goes by
// its window, and by credit.
func TestYamuxsWindowNeverBinds(t *testing.T) {
	const size, enough, least = 16 << 10, 100 << 20, 32 << 20
	peer, ended := victim(t, 0)
	send := func(b []byte) {
		if _, err := peer.Write(b); err != nil {
			t.Fatal(err, <-ended)
		}
	}
	send(frame(0, 1, syn, 1, 0))
	in, head := bufio.NewReader(peer), make([]byte, 12)
	window, credit := 256<<10, 16<<10
	data := frame(0, 0, 0, 1, size, make([]byte, size)...)
	for sent := 0; sent < enough; {
		if credit >= size && (window > least || sent == 0) {
			send(data)
			sent, window, credit = sent+size, window-size, credit-size
			continue
		}
		if _, err := io.ReadFull(in, head); err != nil {
			t.Fatalf("of %d bytes sent, %d of yamux's window are left: %v", sent, window, err)
		}
		switch value := int(binary.BigEndian.Uint32(head[8:])); {
		case head[0] == 0:
			window += value
		case head[1] == 1:
			credit += value
		}
	}
}

func TestPingFloodIsDropped(t *testing.T) {
	peer, ended := victim(t, 0)
	go io.Copy(io.Discard, peer)
	ping := frame(1, 4, 0, 0, 1)
	for range 1_000_000 {
		if _, err := peer.Write(ping); err != nil {
			break
		}
	}
	wantDropped(t, ended, "ping flood")
}

// TestOpenAndCloseFloodIsDropped opens streams for nothing, a million times if
// it is let.
func TestOpenAndCloseFloodIsDropped(t *testing.T) {
	peer, ended := victim(t, 100)
	go io.Copy(io.Discard, peer)
	before := runtime.NumGoroutine()
	most := 0
	for id := uint32(1); id < 2_000_000; id += 2 {
		flood := append(frame(0, 1, syn, id, 0), frame(1, 3, 0, id, 0)...)
		if _, err := peer.Write(flood); err != nil {
			break
		}
		if id%1000 == 1 {
			most = max(most, runtime.NumGoroutine()-before)
		}
	}
	wantDropped(t, ended, "work for nothing")
	if limit := 100 + 100/8 + 16 + 20; most > limit {
		t.Errorf("%d goroutines more than before, want at most %d", most, limit)
	}
}

// TestStreamFloodIsRefused opens streams and keeps them: those above the limit
// are refused, and who goes on is dropped.
func TestStreamFloodIsRefused(t *testing.T) {
	peer, ended := victim(t, 100)
	go io.Copy(io.Discard, peer)
	for id := uint32(1); id < 2_000_000; id += 2 {
		if _, err := peer.Write(frame(0, 1, syn, id, 0)); err != nil {
			break
		}
	}
	wantDropped(t, ended, "work for nothing")
}

// TestPeerThatDoesNotReadIsDropped makes the session owe answers that the
// peer never takes.
func TestPeerThatDoesNotReadIsDropped(t *testing.T) {
	near, far := tunneltest.Link(tunneltest.Path{})
	defer near.Close()
	s := tunnel.NewSession(far, false, tunnel.Config{
		Streams: 1 << 20,
		Handle:  func(context.Context, *tunnel.Stream) {},
	})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context()) }()
	near.SetDeadline(time.Now().Add(20 * time.Second))
	for id := uint32(1); id < 1<<21; id += 2 {
		// A byte makes it a stream that was not opened for nothing.
		b := append(frame(0, 1, syn, id, 0), frame(0, 0, 0, id, 1, 'x')...)
		if _, err := near.Write(append(b, frame(0, 1, fin, id, 0)...)); err != nil {
			break
		}
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Fatal("no reason given")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the session goes on")
	}
}

// TestHalfAFrameHoldsUpNobody sends a header and then nothing: deadlines of
// streams still fire.
func TestHalfAFrameHoldsUpNobody(t *testing.T) {
	near, far := tunneltest.Link(tunneltest.Path{})
	defer near.Close()
	timedOut := make(chan error, 1)
	s := tunnel.NewSession(far, false, tunnel.Config{
		Handle: func(_ context.Context, s *tunnel.Stream) {
			s.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, err := s.Read(make([]byte, 1))
			timedOut <- err
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	near.Write(append(frame(0, 1, syn, 1, 0), frame(0, 0, 0, 1, 1000, 'x')...))
	select {
	case err := <-timedOut:
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
			t.Errorf("Read = %v, want a time-out", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the deadline did not fire")
	}
	cancel()
	<-ended
}
