package tunnel

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
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
	for end := time.Now().Add(10 * time.Second); s.Stats().Streams > 0 || s.mux.NumStreams() > most; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("there are %d streams, and %d of yamux's", s.Stats().Streams, s.mux.NumStreams())
		}
	}
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

// TestEndThatDoesNotFitEndsTheSession has a peer that reads nothing of what it has us send.
func TestEndThatDoesNotFitEndsTheSession(t *testing.T) {
	near, peer := net.Pipe()
	s := clientOf(t, near, peer)
	st, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := makeHeader(guardVersion, typePong, 0, 0, 0)
	for full := false; !full; time.Sleep(time.Millisecond) {
		s.out.mu.Lock()
		for full = s.out.writing; full && (s.out.pending == nil || len(*s.out.pending)+headerSize <= outboxControl); {
			s.out.append(h[:])
		}
		s.out.mu.Unlock()
	}
	st.CloseWrite()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on, and can send nothing")
	}
}
