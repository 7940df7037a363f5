package client_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

// BenchmarkSession is what an app's connection costs from its begin to its end: a request of
// SOCKS 5, and a byte to the target and back. The app and the server are in it.
func BenchmarkSession(b *testing.B) {
	c := start(b, newHub(b, nil), nil)
	if err := c.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	door := &socks.Door{Relay: c.Client, Admission: socks.Admission{Anyone: true}}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = door.Serve(ctx, ln) })
	defer serving.Wait()
	defer cancel()

	answer := make([]byte, 10)
	b.ReportAllocs()
	for b.Loop() {
		app, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		app.SetDeadline(time.Now().Add(patience))
		for _, turn := range []struct {
			say  string
			hear int
		}{
			{"\x05\x01\x00", 2},
			{"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", 10},
			{"x", 1},
		} {
			if _, err := io.WriteString(app, turn.say); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(app, answer[:turn.hear]); err != nil {
				b.Fatal(err)
			}
		}
		app.Close()
	}
}
