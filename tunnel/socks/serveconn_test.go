package socks

import (
	"context"
	"net"
	"net/netip"
	"testing"
)

func TestAppThatSomebodyVouchesForIsServedAndNotAsked(t *testing.T) {
	target := listen(t, "127.0.0.1:0")
	door := &Door{Relay: direct{}, Admission: Admission{
		Authenticate: func(context.Context, netip.AddrPort, string, string) bool {
			t.Error("it is asked for a password")
			return false
		},
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ln := listen(t, "127.0.0.1:0")
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		door.ServeConn(ctx, c)
	}()
	c := through(t, ln.Addr().String(), target.Addr().String())
	far := accept(t, target)
	send(t, c, "hello")
	expect(t, far, "hello")
	select {
	case <-served:
		t.Error("it is not served any more")
	default:
	}
	cancel()
	receive(t, served)
	expectReset(t, c)
}

func TestConnWhoseDirectionsDoNotEndOneByOneIsNotServed(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	(&Door{Relay: direct{}}).ServeConn(t.Context(), far)
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("it is open")
	}
}
