package tunnel_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// holding runs a session whose handler holds its streams, which arrive in held, and returns. cut
// gets one for each cut.
func holding(t *testing.T) (client *tunnel.Session, held chan *tunnel.Stream, cut chan struct{}, served chan error) {
	t.Helper()
	held, cut, served = make(chan *tunnel.Stream, 1), make(chan struct{}, 10), make(chan error, 2)
	a, b := tunneltest.Link(tunneltest.Path{})
	client = tunnel.NewSession(a, true, tunnel.Config{})
	server := tunnel.NewSession(b, false, tunnel.Config{Handle: func(ctx context.Context, s *tunnel.Stream) {
		context.AfterFunc(ctx, func() { held <- s }) // when it has returned
		s.Hold(func() { cut <- struct{}{} })
	}})
	for _, s := range []*tunnel.Session{client, server} {
		go func() { served <- s.Serve(t.Context()) }()
	}
	t.Cleanup(func() {
		client.Close(0)
		<-served
	})
	return client, held, cut, served
}

func TestHeldStreamOutlivesItsHandler(t *testing.T) {
	client, held, cut, _ := holding(t)
	here, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	there := <-held
	for range 2 {
		here.Write([]byte("x"))
		if _, err := io.ReadFull(there, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	here.CloseWrite()
	there.Release()
	if n, err := here.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read gives %d bytes and %v after Release, want the end", n, err)
	}
	select {
	case <-cut:
		t.Error("it was cut")
	default:
	}
}

func TestHeldStreamIsCutWhenThePeerResetsIt(t *testing.T) {
	client, held, cut, _ := holding(t)
	here, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	there := <-held
	here.Reset()
	awaitCall(t, cut)
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrReset) {
		t.Errorf("Read gives %v, want a reset", err)
	}
	there.Release()
}

func TestEndOfASessionCutsHeldStreamsAndWaitsForThem(t *testing.T) {
	client, held, cut, served := holding(t)
	if _, err := client.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	there := <-held
	client.Close(0)
	<-served // the client's
	awaitCall(t, cut)
	select {
	case <-served:
		t.Fatal("Serve returns before Release")
	case <-time.After(50 * time.Millisecond):
	}
	there.Release()
	<-served
	served <- nil // for the clean-up
}
