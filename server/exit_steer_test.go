package server

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/socks"
)

// Whatever opens a socket here asks for its way first. Nothing is sent, as there is none.
func TestAllSocketsOfTheExitAreSteered(t *testing.T) {
	noWay := errors.New("there is no way")
	var asked atomic.Int32
	far := netip.MustParseAddr("9.9.9.9")
	e := &Exit{
		Upstream: []netip.AddrPort{netip.AddrPortFrom(far, 53)},
		Steer:    func(syscall.RawConn) error { asked.Add(1); return noWay },
	}
	to := socks.Addr{IP: far, Port: 443}
	for what, use := range map[string]func(context.Context) error{
		"CONNECT": func(ctx context.Context) error {
			_, _, err := e.Connect(ctx, socks.Request{Command: socks.Connect, Dst: to})
			return err
		},
		"BIND": func(ctx context.Context) error {
			_, _, err := e.Bind(ctx, socks.Request{Command: socks.Bind, Dst: to})
			return err
		},
		"ASSOCIATE": func(ctx context.Context) error {
			_, _, err := e.Associate(ctx, socks.Request{Command: socks.Associate}, nil)
			return err
		},
		"ping": func(ctx context.Context) error { return e.Echo(ctx, socks.Request{}, far, nil) },
		"a question over UDP": func(ctx context.Context) error {
			_, err := e.Steer.ask(ctx, e.Upstream[0], dnsQueryFor(t, "a.example.", dnsmessage.TypeA), dnsTimeout)
			return err
		},
		"a question over TCP": func(ctx context.Context) error {
			_, err := e.Steer.askTCP(ctx, e.Upstream[0], dnsQueryFor(t, "a.example.", dnsmessage.TypeA))
			return err
		},
	} {
		before := asked.Load()
		if err := use(t.Context()); !errors.Is(err, noWay) || asked.Load() == before {
			t.Errorf("%s: %v, asked %d times", what, err, asked.Load()-before)
		}
	}
	if e.hasWay(far) {
		t.Error("there is a way, but none that is to be used")
	}
	before := asked.Load()
	if _, err := e.resolver().LookupNetIP(t.Context(), "ip4", "a.example."); err == nil || asked.Load() == before {
		t.Errorf("to look up a name: %v, asked %d times", err, asked.Load()-before)
	}
}

// A resolver on this host is not reached by the way out.
func TestWhatStaysOnTheHostIsNotSteered(t *testing.T) {
	steer := Steer(func(syscall.RawConn) error { return errors.New("it goes out") })
	for _, address := range []string{"127.0.0.53:53", "[::1]:53", "127.0.0.1", "::1"} {
		if err := steer.control("", address, nil); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"192.0.2.1:53", ":0", "[::]:0", "2001:db8::1"} {
		if err := steer.control("", address, nil); err == nil {
			t.Errorf("%s is not steered", address)
		}
	}
}
