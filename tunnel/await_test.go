package tunnel_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

func TestWhoeverAwaitsIsCalledWhenThereIsSomethingToRead(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(p *pair, here *tunnel.Stream, peer *accepted)
		want error // of Read; nil: a byte
	}{
		{"a byte", func(_ *pair, _ *tunnel.Stream, peer *accepted) { peer.Write([]byte("x")) }, nil},
		{"the end", func(_ *pair, _ *tunnel.Stream, peer *accepted) { peer.CloseWrite() }, io.EOF},
		{"a reset", func(_ *pair, _ *tunnel.Stream, peer *accepted) { peer.Reset() }, tunnel.ErrReset},
		{"a reset of our own", func(_ *pair, here *tunnel.Stream, _ *accepted) { here.Reset() }, net.ErrClosed},
		{"a close of our own", func(_ *pair, here *tunnel.Stream, _ *accepted) { here.Close() }, net.ErrClosed},
		{"the end of the session", func(p *pair, _ *tunnel.Stream, _ *accepted) { p.client.Fail(errors.New("enough")) }, tunnel.ErrSessionLost},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := tunneltest.Link(tunneltest.Path{})
			p := newPair(t, a, b, 0)
			defer p.stop()
			here, peer := p.open(t)
			defer peer.Close()
			for range 2 { // it goes on as before after it was called
				peer.Write([]byte("first"))
				io.ReadFull(here, make([]byte, 5))
				called := make(chan struct{}, 2)
				if !here.Await(nil, func() { called <- struct{}{} }) {
					t.Fatal("there is something to read before anybody has said anything")
				}
				if test.want == nil {
					test.do(p, here, peer)
					expectByte(t, here, called)
				}
			}
			if test.want == nil {
				return
			}
			called := make(chan struct{}, 2)
			here.Await(nil, func() { called <- struct{}{} }) // in place of the one before
			test.do(p, here, peer)
			awaitCall(t, called)
			if n, err := here.Read(make([]byte, 1)); n != 0 || !errors.Is(err, test.want) {
				t.Errorf("Read gives %d bytes and %v, want %v", n, err, test.want)
			}
			if here.Await(nil, func() { t.Error("it is called although there was something to read") }) {
				t.Error("there is nothing to read any more")
			}
		})
	}
}

func expectByte(t *testing.T, s *tunnel.Stream, called <-chan struct{}) {
	t.Helper()
	awaitCall(t, called)
	if s.Await(nil, func() { t.Error("it is called although there was something to read") }) {
		t.Error("nothing is there to be read")
	}
	if n, err := s.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("Read gives %d bytes and %v, want one byte", n, err)
	}
	select {
	case <-called:
		t.Error("it was called twice")
	default:
	}
}

func awaitCall(t *testing.T, called <-chan struct{}) {
	t.Helper()
	select {
	case <-called:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was called")
	}
}
