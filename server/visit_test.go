package server

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

func TestVisitorsFlowsEndWhenTheyMayNotComeAnyMore(t *testing.T) {
	h := newHouse(t, nil)
	v, err := h.Visit(t.Context(), Visitor{User: "anna"})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	h.must(err)
	defer ln.Close()
	dst, err := socks.ParseAddr(ln.Addr().String())
	h.must(err)
	conn, _, err := v.Connect(t.Context(), socks.Request{Command: socks.Connect, Dst: dst})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := h.store.SetUserDisabled(t.Context(), "anna", true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-v.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the visit goes on")
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the connection reads %v, want a broken one", err)
	}
	if _, _, err := v.Connect(t.Context(), socks.Request{Command: socks.Connect, Dst: dst}); socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("a visit that is over connects: %v", err)
	}
	if _, err := h.Visit(t.Context(), Visitor{User: "anna"}); !errors.Is(err, tunnel.RefusedUserDisabled) {
		t.Errorf("a disabled visitor gets %v", err)
	}
}

func TestVisitTellsWhatItHasUsed(t *testing.T) {
	h := newHouse(t, nil)
	v, err := h.Visit(t.Context(), Visitor{User: "anna"})
	h.must(err)
	defer v.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	h.must(err)
	defer ln.Close()
	dst, err := socks.ParseAddr(ln.Addr().String())
	h.must(err)
	for i := range 2 {
		conn, _, err := v.Connect(t.Context(), socks.Request{Command: socks.Connect, Dst: dst})
		h.must(err)
		target, err := ln.Accept()
		h.must(err)
		_, err = conn.Write([]byte("hello"))
		h.must(err)
		_, err = target.Write([]byte("you"))
		h.must(err)
		_, err = conn.Read(make([]byte, 3))
		h.must(err)
		n := int64(i + 1)
		if got, want := v.Usage(), (Usage{Flows: 1, Opened: uint64(n), Up: 5 * n, Down: 3 * n}); got != want {
			t.Errorf("while flow %d is open: %+v, want %+v", n, got, want)
		}
		h.must(conn.Close())
		h.must(target.Close())
	}
	if got, want := v.Usage(), (Usage{Opened: 2, Up: 10, Down: 6}); got != want {
		t.Errorf("after all flows: %+v, want %+v", got, want)
	}
}
