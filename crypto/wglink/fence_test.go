package wglink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestNobodyIsHeardWhoseWayIsNotOpen(t *testing.T) {
	var open atomic.Bool
	var asked, stopped atomic.Int64
	e := startWith(t, genuine(echo), ServerConfig{Guard: func(netip.AddrPort) (func() (uint32, bool), func()) {
		asked.Add(1)
		return func() (uint32, bool) { return 0, open.Load() }, func() { stopped.Add(1) }
	}})
	d := e.dialer(t)
	d.HandshakeTimeout = time.Second
	if _, err := d.Dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Fatalf("by a way that is not open: %v", err)
	}
	if asked.Load() == 0 || stopped.Load() != asked.Load() {
		t.Errorf("asked %d times, stopped %d times", asked.Load(), stopped.Load())
	}
	open.Store(true)
	d.HandshakeTimeout = patience
	c := attach(t, d)
	exchange := func(by time.Duration) error {
		_ = c.SetDeadline(time.Now().Add(by))
		_, err := c.Write([]byte{1})
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return err
	}
	if err := exchange(patience); err != nil {
		t.Fatal(err)
	}
	open.Store(false)
	if err := exchange(200 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("by a way that is closed again: %v", err)
	}
	open.Store(true)
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("what waited has not come: %v", err)
	}
	e.stop()
	if asked.Load() != stopped.Load() {
		t.Errorf("asked %d times, stopped %d times", asked.Load(), stopped.Load())
	}
}

func TestClientSendsOnlyToWhereItsGuardLetsIt(t *testing.T) {
	e := start(t, genuine(echo))
	d := e.dialer(t)
	closed := errors.New("closed")
	var places []netip.AddrPort
	d.Guard = func(_ context.Context, c syscall.RawConn, place netip.AddrPort) error {
		places = append(places, place)
		if len(places) == 1 {
			return closed
		}
		return nil
	}
	if _, err := d.Dial(t.Context()); !errors.Is(err, closed) {
		t.Errorf("to where the guard does not let it: %v", err)
	}
	attach(t, d)
	for _, p := range places {
		if p.String() != e.endpoint {
			t.Errorf("the guard was asked about %v", p)
		}
	}
}

// twoVersions gives the server's address of both versions of IP, that of IPv6 first.
type twoVersions struct{}

func (twoVersions) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.1")}, nil
}

func TestClientComesByTheVersionOfIPThatItsGuardLetsIt(t *testing.T) {
	e := start(t, genuine(echo))
	d := e.dialer(t)
	d.Resolver = twoVersions{}
	port := netip.MustParseAddrPort(e.endpoint).Port()
	d.Endpoint = fmt.Sprintf("server.example:%d", port)
	closed := errors.New("closed")
	d.Guard = func(_ context.Context, _ syscall.RawConn, place netip.AddrPort) error {
		if place.Addr().Is6() {
			return closed
		}
		return nil
	}
	attach(t, d)
	attach(t, d) // by the same socket
	if want := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port); d.Place() != want {
		t.Errorf("the server is at %v, want %v", d.Place(), want)
	}
}
