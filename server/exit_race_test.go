package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// pretended is a connection that knows whether it was closed.
type pretended struct {
	relay.Conn
	to     netip.AddrPort
	closed atomic.Bool
}

func (p *pretended) Close() error {
	p.closed.Store(true)
	return nil
}

// network pretends to dial: what each target does is in outcomes.
type network struct {
	outcomes map[string]outcome
	start    time.Time

	mu    sync.Mutex
	began []string // "target at time"
	conns []*pretended
	ended int
}

type outcome struct {
	after time.Duration
	err   error // nil: it connects
	deaf  bool  // it connects although it has been told to stop
}

const never = time.Hour

func (n *network) dial(ctx context.Context, target netip.AddrPort) (relay.Conn, error) {
	name := target.Addr().String()
	n.mu.Lock()
	n.began = append(n.began, fmt.Sprintf("%s at %v", name, time.Since(n.start)))
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.ended++
		n.mu.Unlock()
	}()
	o := n.outcomes[name]
	stop := ctx.Done()
	if o.deaf {
		stop = nil
	}
	select {
	case <-time.After(o.after):
	case <-stop:
		return nil, ctx.Err()
	}
	if o.err != nil {
		return nil, o.err
	}
	c := &pretended{to: target}
	n.mu.Lock()
	n.conns = append(n.conns, c)
	n.mu.Unlock()
	return c, nil
}

func at(all ...string) []netip.AddrPort {
	var targets []netip.AddrPort
	for _, a := range all {
		targets = append(targets, netip.AddrPortFrom(netip.MustParseAddr(a), 80))
	}
	return targets
}

var errRefused = &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}

func TestRaceFollowsRFC8305(t *testing.T) {
	for _, test := range []struct {
		name     string
		targets  []string
		outcomes map[string]outcome
		winner   string
		took     time.Duration
		began    []string
	}{
		{
			"the first answers", []string{"2001:db8::1", "192.0.2.1"},
			map[string]outcome{"2001:db8::1": {after: 249 * time.Millisecond}},
			"2001:db8::1", 249 * time.Millisecond, []string{"2001:db8::1 at 0s"},
		},
		{
			"the first stalls", []string{"2001:db8::1", "192.0.2.1", "2001:db8::2"},
			map[string]outcome{"2001:db8::1": {after: never}, "192.0.2.1": {after: 10 * time.Millisecond}},
			"192.0.2.1", 260 * time.Millisecond, []string{"2001:db8::1 at 0s", "192.0.2.1 at 250ms"},
		},
		{
			"the first fails", []string{"2001:db8::1", "192.0.2.1", "2001:db8::2"},
			map[string]outcome{"2001:db8::1": {after: 20 * time.Millisecond, err: errRefused}, "192.0.2.1": {after: 100 * time.Millisecond}},
			"192.0.2.1", 120 * time.Millisecond, []string{"2001:db8::1 at 0s", "192.0.2.1 at 20ms"},
		},
		{
			"the delay starts anew after a failure", []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"},
			map[string]outcome{
				"192.0.2.1": {after: 200 * time.Millisecond, err: errRefused}, "192.0.2.2": {after: never}, "192.0.2.3": {after: 1},
			},
			"192.0.2.3", 450*time.Millisecond + 1, []string{"192.0.2.1 at 0s", "192.0.2.2 at 200ms", "192.0.2.3 at 450ms"},
		},
		{
			"the slow first wins over the slower second", []string{"192.0.2.1", "192.0.2.2"},
			map[string]outcome{"192.0.2.1": {after: 400 * time.Millisecond}, "192.0.2.2": {after: 300 * time.Millisecond}},
			"192.0.2.1", 400 * time.Millisecond, []string{"192.0.2.1 at 0s", "192.0.2.2 at 250ms"},
		},
		{
			"a failure after all have started", []string{"192.0.2.1", "192.0.2.2"},
			map[string]outcome{"192.0.2.1": {after: 2 * time.Second}, "192.0.2.2": {after: time.Second, err: errRefused}},
			"192.0.2.1", 2 * time.Second, []string{"192.0.2.1 at 0s", "192.0.2.2 at 250ms"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{outcomes: test.outcomes, start: time.Now()}
				conn, err := race(t.Context(), at(test.targets...), n.dial)
				if err != nil {
					t.Fatal(err)
				}
				if got := conn.(*pretended).to.Addr().String(); got != test.winner || time.Since(n.start) != test.took {
					t.Errorf("%s has won after %v, want %s after %v", got, time.Since(n.start), test.winner, test.took)
				}
				if !slices.Equal(n.began, test.began) {
					t.Errorf("attempts: %v, want %v", n.began, test.began)
				}
				if n.ended != len(n.began) {
					t.Errorf("%d of %d attempts have ended", n.ended, len(n.began))
				}
			})
		})
	}
}

func TestRaceClosesTheLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{start: time.Now(), outcomes: map[string]outcome{
			"192.0.2.1": {after: 600 * time.Millisecond}, // at the same moment as the next
			"192.0.2.2": {after: 350 * time.Millisecond},
			"192.0.2.3": {after: time.Second, deaf: true},
		}}
		conn, err := race(t.Context(), at("192.0.2.1", "192.0.2.2", "192.0.2.3"), n.dial)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range n.conns {
			if c.closed.Load() != (c != conn) {
				t.Errorf("%v: closed is %v, winner is %v", c.to, c.closed.Load(), c == conn)
			}
		}
		if len(n.conns) < 2 {
			t.Errorf("%d connections: nobody has lost", len(n.conns))
		}
	})
}

func TestRaceTellsTheMostTellingError(t *testing.T) {
	hosts := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}
	for _, test := range []struct {
		errs []error
		want socks.Code
	}{
		{[]error{syscall.EMFILE, syscall.ETIMEDOUT, syscall.ENETUNREACH, syscall.EHOSTUNREACH}, socks.HostUnreachable},
		{[]error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EMFILE}, socks.ConnectionRefused},
		{[]error{syscall.EMFILE, syscall.ETIMEDOUT, syscall.ENETUNREACH}, socks.NetworkUnreachable},
		{[]error{syscall.EMFILE, syscall.ETIMEDOUT}, socks.TimedOut},
		{[]error{syscall.EMFILE, &socks.Error{Code: socks.NotAllowed, Err: errors.New("denied")}}, socks.NotAllowed},
		{[]error{syscall.EMFILE}, socks.GeneralFailure},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &network{start: time.Now(), outcomes: map[string]outcome{}}
			for i, err := range test.errs {
				n.outcomes[hosts[i]] = outcome{err: err}
			}
			_, err := race(t.Context(), at(hosts[:len(test.errs)]...), n.dial)
			if socks.CodeOf(err) != test.want {
				t.Errorf("%v make %v, want code %v", test.errs, err, test.want)
			}
		})
	}
}

func TestRaceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{start: time.Now(), outcomes: map[string]outcome{
			"192.0.2.1": {after: never}, "192.0.2.2": {after: never}, "192.0.2.3": {after: never},
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
		defer cancel()
		_, err := race(ctx, at("192.0.2.1", "192.0.2.2", "192.0.2.3"), n.dial)
		if socks.CodeOf(err) != socks.TimedOut || time.Since(n.start) != 600*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(n.start), err)
		}

		n.outcomes["192.0.2.2"] = outcome{err: errRefused}
		ctx, cancel = context.WithTimeout(t.Context(), 600*time.Millisecond)
		defer cancel()
		if _, err := race(ctx, at("192.0.2.1", "192.0.2.2"), n.dial); socks.CodeOf(err) != socks.ConnectionRefused {
			t.Errorf("one was refused before: %v", err)
		}
	})
}

func TestInterleaveLetsTheFamiliesTakeTurns(t *testing.T) {
	for _, test := range []struct{ in, want []string }{
		{[]string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"}, []string{"2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"}},
		{[]string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}, []string{"192.0.2.1", "2001:db8::1", "192.0.2.2"}},
		{[]string{"192.0.2.1", "2001:db8::1", "2001:db8::2"}, []string{"192.0.2.1", "2001:db8::1", "2001:db8::2"}},
		{[]string{"192.0.2.2", "192.0.2.1"}, []string{"192.0.2.2", "192.0.2.1"}},
		{[]string{"2001:db8::1"}, []string{"2001:db8::1"}},
	} {
		if got := interleave(at(test.in...)); !slices.Equal(got, at(test.want...)) {
			t.Errorf("%v becomes %v, want %v", test.in, got, test.want)
		}
	}
}
