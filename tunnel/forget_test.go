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
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			defer running.Wait()
			defer cancel()
			a, b := net.Pipe()
			client := NewSession(a, true, Config{})
			server := NewSession(b, false, Config{Handle: func(_ context.Context, st *Stream) {
				if serverFirst {
					st.CloseWrite()
				}
				io.Copy(io.Discard, st)
			}})
			running.Go(func() { client.Serve(ctx) })
			running.Go(func() { server.Serve(ctx) })

			var open []*Stream
			for range streams {
				st, err := client.Open(ctx)
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
			for _, s := range []*Session{client, server} {
				awaitFew(t, s, maxDropped/2)
			}
			if st := client.OpenNow(); st == nil {
				t.Error("opening one more has to wait for the server")
			} else {
				st.Close()
			}
		})
	}
}

// awaitFew waits until a session and its yamux have no more streams than these.
func awaitFew(t *testing.T, s *Session, most int) {
	t.Helper()
	until(t, "streams are gone", func() bool { return s.Stats().Streams == 0 && s.mux.NumStreams() <= most })
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
			s, st, peer := loneStream(t)
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
			mux := reflect.ValueOf(s.mux).Elem()
			if n, m := mux.FieldByName("inflight").Len(), mux.FieldByName("synCh").Len(); n != 0 || m != 0 {
				t.Errorf("yamux waits for the peer to accept %d streams, and counts %d", n, m)
			}
			if err := s.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEndThatComesDuringAResetReachesYamux stops Reset in the middle.
func TestEndThatComesDuringAResetReachesYamux(t *testing.T) {
	s, st, peer := loneStream(t)
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
	s := clientOf(t, near, peer)
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

// loneStream gives a stream that a client has opened, in a session whose peer is the test.
func loneStream(t *testing.T) (s *Session, st *Stream, peer io.Writer) {
	t.Helper()
	near, far := tunneltest.Link(tunneltest.Path{})
	s = clientOf(t, near, far)
	go io.Copy(io.Discard, far)
	st, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, st, far
}

// clientOf gives a client's session whose peer is the test.
func clientOf(t *testing.T, pipe, peer io.ReadWriteCloser) *Session {
	t.Helper()
	s := NewSession(pipe, true, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Serve(ctx) })
	t.Cleanup(func() { cancel(); peer.Close(); running.Wait() })
	return s
}
