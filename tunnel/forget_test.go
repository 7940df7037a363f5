package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/tunneltest"
)

func TestYamuxForgetsStreamsWhoseDirectionsHaveEnded(t *testing.T) {
	const streams = 2 * maxDropped
	for name, serverFirst := range map[string]bool{"the client ends first": false, "the server ends first": true} {
		t.Run(name, func(t *testing.T) {
			client, server := pairOf(t, func(_ context.Context, st *Stream) {
				if serverFirst {
					st.CloseWrite()
				}
				io.Copy(io.Discard, st)
			})
			var open []*Stream
			for range streams {
				st, err := client.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, st)
			}
			for _, st := range open {
				if serverFirst {
					if err := st.WaitRead(); err != nil {
						t.Fatal(err)
					}
				}
			}
			// Where the server has ended first, the client hears nothing from now on.
			for _, st := range open {
				if err := st.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			for _, st := range open {
				if n, err := io.Copy(io.Discard, st); n != 0 || err != nil {
					t.Fatalf("read %d bytes, %v", n, err)
				}
			}
			awaitFew(t, client, maxDropped/2)
			awaitFew(t, server, maxDropped/2+arrivals) // yamux may not have handed those over
			if st := client.OpenNow(); st == nil {
				t.Error("opening one more has to wait for the server")
			} else {
				st.Close()
			}
		})
	}
}

// TestYamuxForgetsStreamsThatItHasNotHandedOver has a server reset streams while yamux may not have
// told of them yet.
func TestYamuxForgetsStreamsThatItHasNotHandedOver(t *testing.T) {
	client, server := pairOf(t, func(_ context.Context, st *Stream) { st.Reset() })
	for range 2 * maxDropped {
		st, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Read(make([]byte, 1)); err != ErrReset {
			t.Fatalf("read: %v", err)
		}
		st.Close()
	}
	for _, s := range []*Session{client, server} {
		awaitFew(t, s, maxDropped)
	}
	until(t, "yamux has handed over all", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.arrived) == 0
	})
}

// TestStreamsAreOpenedInTheOrderOfTheirIDs by many at a time, and the peer hears of none before it is
// wanted.
func TestStreamsAreOpenedInTheOrderOfTheirIDs(t *testing.T) {
	near, far := tunneltest.Link(tunneltest.Path{})
	s, _ := clientOf(t, near, far)
	<-s.started
	until(t, "there is a spare stream", func() bool { return s.mux.NumStreams() == spares(s) })
	const streams = 100
	var opening sync.WaitGroup
	defer opening.Wait()
	for range streams {
		opening.Go(func() { s.Open(t.Context()) })
	}
	var in inbox
	for id := uint32(1); id < 2*streams; {
		h, _, err := in.frame(far)
		if err != nil {
			t.Fatal(err)
		}
		if h.version() == yamuxVersion {
			if h.stream() != id || h.flags() != flagSYN {
				t.Fatalf("stream %d with flags %#x, want a new one, %d", h.stream(), h.flags(), id)
			}
			id += 2
		}
	}
	if n := s.Stats().Opened; n != streams {
		t.Errorf("%d streams were opened", n)
	}
}

// awaitFew waits until a session has no streams, and its yamux no more than these, and a spare. That has
// to last: while a spare is being opened, another stream may be in its place.
func awaitFew(t *testing.T, s *Session, most int) {
	t.Helper()
	lasts := 0
	until(t, "streams are gone", func() bool {
		lasts++
		if n := s.mux.NumStreams(); s.Stats().Streams > 0 || n < spares(s) || n > spares(s)+most {
			lasts = 0
		}
		return lasts > 20
	})
}

// spares is how many streams a session has that nobody has asked for yet.
func spares(s *Session) int {
	if s.client {
		return 1
	}
	return 0
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestYamuxForgetsStreamsThatWereNeverAccepted is about what yamux keeps of streams that the peer has
// not acknowledged.
func TestYamuxForgetsStreamsThatWereNeverAccepted(t *testing.T) {
	window := func(flags uint16) func(*Stream) header {
		return func(st *Stream) header { return makeHeader(yamuxVersion, typeWindow, flags, st.id, 0) }
	}
	reset := func(st *Stream) header { return makeHeader(guardVersion, typeReset, 0, st.id, 0) }
	nothing := func(*Stream) header { return makeHeader(guardVersion, typePong, 0, 0, 0) }
	readAndEnd := func(st *Stream) error { return errors.Join(st.WaitRead(), st.CloseWrite()) }
	for name, test := range map[string]struct {
		first func(*Stream) header // what the peer sends
		end   func(*Stream) error  // what is done here then
		last  func(*Stream) header // and what the peer sends after that
	}{
		"accepted":                       {window(flagACK), (*Stream).CloseWrite, window(flagFIN)},
		"accepted when it has ended":     {nothing, (*Stream).CloseWrite, window(flagACK | flagFIN)},
		"never accepted":                 {nothing, (*Stream).CloseWrite, window(flagFIN)},
		"never accepted, the peer first": {window(flagFIN), readAndEnd, nothing},
		"reset by the peer":              {reset, (*Stream).WaitRead, nothing},
		"ended, and reset by the peer":   {nothing, (*Stream).CloseWrite, reset},
		"reset here":                     {nothing, (*Stream).Reset, nothing},
		"reset here, and accepted":       {nothing, (*Stream).Reset, window(flagACK)},
		"accepted, and reset here":       {window(flagACK), (*Stream).Reset, nothing},
	} {
		t.Run(name, func(t *testing.T) {
			s, st, peer, stop := loneStream(t)
			send := func(h header) {
				if _, err := peer.Write(h[:]); err != nil {
					t.Fatal(err)
				}
			}
			send(test.first(st))
			if err := test.end(st); err != nil {
				t.Fatal(err)
			}
			send(test.last(st))
			awaitFew(t, s, 0)
			if err := s.Err(); err != nil {
				t.Error(err)
			}
			stop() // nobody changes what is looked at
			mux := reflect.ValueOf(s.mux).Elem()
			if n, m := mux.FieldByName("inflight").Len(), mux.FieldByName("synCh").Len(); n > spares(s) || m > spares(s) {
				t.Errorf("yamux waits for the peer to accept %d streams, and counts %d", n, m)
			}
		})
	}
}

// TestEndThatComesDuringAResetReachesYamux stops Reset in the middle.
func TestEndThatComesDuringAResetReachesYamux(t *testing.T) {
	s, st, peer, _ := loneStream(t)
	st.mu.Lock()
	st.closed, st.localReset = true, true
	st.mu.Unlock()
	fin := makeHeader(yamuxVersion, typeWindow, flagACK|flagFIN, st.id, 0)
	peer.Write(fin[:])
	until(t, "the peer's end has come", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.peerEnded
	})
	s.guard.mu.Lock()
	for range maxDropped / 2 {
		s.guard.dropped = append(s.guard.dropped, makeHeader(yamuxVersion, typeWindow, flagRST, 1<<20+1, 0))
	}
	s.guard.mu.Unlock()
	if err := s.guard.end(st); err != nil {
		t.Fatal(err)
	}
	s.guard.forget(st)
	awaitFew(t, s, 0)
}

// TestEndThatDoesNotFitEndsTheSession has a peer that reads nothing of what it has us send.
func TestEndThatDoesNotFitEndsTheSession(t *testing.T) {
	near, peer := net.Pipe()
	s, _ := clientOf(t, near, peer)
	st, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := makeHeader(guardVersion, typePong, 0, 0, 0)
	until(t, "the outbox is being written, and full", func() bool {
		s.out.mu.Lock()
		defer s.out.mu.Unlock()
		for s.out.writing && (s.out.pending == nil || len(*s.out.pending)+headerSize <= outboxControl) {
			s.out.append(h[:])
		}
		return s.out.writing
	})
	st.CloseWrite()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on, and can send nothing")
	}
}

// pairOf gives both ends of a session until the test ends.
func pairOf(t *testing.T, handle func(context.Context, *Stream)) (client, server *Session) {
	t.Helper()
	a, b := net.Pipe()
	client = NewSession(a, true, Config{})
	server = NewSession(b, false, Config{Handle: handle})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { client.Serve(ctx) })
	running.Go(func() { server.Serve(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return client, server
}

// loneStream gives a stream that a client has opened, in a session whose peer is the test until stop
// is called.
func loneStream(t *testing.T) (s *Session, st *Stream, peer io.Writer, stop func()) {
	t.Helper()
	near, far := tunneltest.Link(tunneltest.Path{})
	s, stop = clientOf(t, near, far)
	go io.Copy(io.Discard, far)
	st, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, st, far, stop
}

// clientOf gives a client's session whose peer is the test until stop is called.
func clientOf(t *testing.T, pipe, peer io.ReadWriteCloser) (s *Session, stop func()) {
	t.Helper()
	s = NewSession(pipe, true, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Serve(ctx) })
	stop = func() { cancel(); peer.Close(); running.Wait() }
	t.Cleanup(stop)
	return s, stop
}
