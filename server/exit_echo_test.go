package server

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestEchoComesBackFromWhoIsThere(t *testing.T) {
	e := &Exit{Allow: toLoopback}
	for _, target := range addrs("127.0.0.1", "127.0.0.5", "::1", "::ffff:127.0.0.1") {
		for _, size := range []int{0, 56, 2000, 60_000} {
			if err := e.Echo(t.Context(), socks.Request{}, target, []byte(strings.Repeat("x", size))); err != nil {
				t.Errorf("%d bytes to %s: %v", size, target, err)
			}
		}
	}
	var all sync.WaitGroup
	for range 50 { // each hears its own
		all.Go(func() {
			if err := e.Echo(t.Context(), socks.Request{}, netip.MustParseAddr("127.0.0.1"), nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := e.echoes.taken(); n != 0 {
		t.Errorf("%d echoes are under way", n)
	}
}

func TestEchoIsJudged(t *testing.T) {
	for _, target := range addrs("127.0.0.1", "::1", "10.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "0.0.0.0", "ff02::1") {
		if err := (&Exit{}).Echo(t.Context(), socks.Request{}, target, nil); socks.CodeOf(err) != socks.NotAllowed {
			t.Errorf("%s: %v", target, err)
		}
	}
	if err := (&Exit{Allow: toLoopback}).Echo(t.Context(), socks.Request{}, netip.Addr{}, nil); socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("no target: %v", err)
	}
}

func TestEchoesAreCounted(t *testing.T) {
	e := &Exit{Allow: toLoopback}
	full(&e.echoes, "", maxEchoes)
	if err := e.Echo(t.Context(), socks.Request{}, netip.MustParseAddr("127.0.0.1"), nil); !errors.Is(err, errEchoes) {
		t.Errorf("error is %v", err)
	}
	if e.echoes.taken() != maxEchoes {
		t.Error("it was counted out")
	}
}

func TestEchoEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// Documentation addresses (RFC 5737): no reply can come.
	err := (&Exit{}).Echo(ctx, socks.Request{}, netip.MustParseAddr("192.0.2.77"), nil)
	if err == nil {
		t.Error("there is a reply")
	}
	if took := time.Until(mustDeadline(ctx)); took < -5*time.Second {
		t.Errorf("it took %v too long", -took)
	}
}

func mustDeadline(ctx context.Context) time.Time {
	d, _ := ctx.Deadline()
	return d
}
