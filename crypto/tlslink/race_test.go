package tlslink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const never = time.Hour

var (
	errRefused     = &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	errUnreachable = &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
	errNoName      = &net.DNSError{Err: "no such host", Name: "exit.test", IsNotFound: true}
)

// outcome is what an attempt to connect, or a look-up, comes to.
type outcome struct {
	after time.Duration
	err   error
	addrs []netip.Addr // of a look-up
	deaf  bool         // goes on although it has been told to stop
}

func (o outcome) wait(ctx context.Context) error {
	stop := ctx.Done()
	if o.deaf {
		stop = nil
	}
	select {
	case <-time.After(o.after):
		return o.err
	case <-stop:
		return ctx.Err()
	}
}

// world pretends to be the network. What is not in it never answers.
type world struct {
	names map[string]outcome // by network, "ip6" and "ip4"
	hosts map[string]outcome // by address, "plain " before it for plain TCP after Multipath TCP

	mu      sync.Mutex
	began   []string // "address at time"
	conns   []*counted
	running atomic.Int64 // look-ups and attempts
}

func (w *world) LookupNetIP(ctx context.Context, network, _ string) ([]netip.Addr, error) {
	w.running.Add(1)
	defer w.running.Add(-1)
	o, ok := w.names[network]
	if !ok {
		o.after = never
	}
	return o.addrs, o.wait(ctx)
}

// race has a search race for the world. It tells the winner and how long it took.
func (w *world) race(ctx context.Context, s *search) (winner string, took time.Duration, err error) {
	start := time.Now()
	s.resolver = w
	if s.patience == 0 {
		s.patience = headStart
	}
	r, err := s.connect(ctx, func(ctx context.Context, t target) (net.Conn, error) {
		w.running.Add(1)
		defer w.running.Add(-1)
		name := t.addr.String()
		if t.plain {
			name = "plain " + name
		}
		w.mu.Lock()
		w.began = append(w.began, fmt.Sprintf("%s at %v", name, time.Since(start)))
		w.mu.Unlock()
		o, ok := w.hosts[name]
		if !ok {
			o.after = never
		}
		if err := o.wait(ctx); err != nil {
			return nil, err
		}
		a, b := net.Pipe()
		c := &counted{Conn: a}
		w.mu.Lock()
		w.conns = append(w.conns, c)
		w.mu.Unlock()
		return c, b.Close()
	})
	if r.conn != nil {
		winner = r.to.addr.String()
	}
	return winner, time.Since(start), err
}

func addrs(all string) []netip.Addr {
	var list []netip.Addr
	for _, a := range strings.Fields(all) {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

func at(all string) outcome { return outcome{addrs: addrs(all)} }

func after(d time.Duration) outcome { return outcome{after: d} }

const ms = time.Millisecond

func TestServerIsFoundAsRFC8305Says(t *testing.T) {
	for _, test := range []struct {
		name   string
		ip6    outcome
		ip4    outcome
		hosts  map[string]outcome
		winner string
		took   time.Duration
		began  string
	}{
		{
			"the first answers", at("2001:db8::1"), at("192.0.2.1"),
			map[string]outcome{"2001:db8::1": after(249 * ms)},
			"2001:db8::1", 249 * ms, "2001:db8::1 at 0s",
		},
		{
			"IPv6 is a black hole", at("2001:db8::1 2001:db8::2"), at("192.0.2.1"),
			map[string]outcome{"192.0.2.1": after(10 * ms)},
			"192.0.2.1", 260 * ms, "2001:db8::1 at 0s, 192.0.2.1 at 250ms",
		},
		{
			"no route for IPv6", at("2001:db8::1"), at("192.0.2.1"),
			map[string]outcome{"2001:db8::1": {err: errUnreachable}, "192.0.2.1": after(10 * ms)},
			"192.0.2.1", 10 * ms, "2001:db8::1 at 0s, 192.0.2.1 at 0s",
		},
		{
			"the first of one family is dead", outcome{err: errNoName}, at("192.0.2.1 192.0.2.2 192.0.2.3"),
			map[string]outcome{"192.0.2.1": {after: 20 * ms, err: errRefused}, "192.0.2.2": after(10 * ms)},
			"192.0.2.2", 30 * ms, "192.0.2.1 at 0s, 192.0.2.2 at 20ms",
		},
		{
			"the last of eight lives", at("2001:db8::1 2001:db8::2 2001:db8::3"), at("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5"),
			map[string]outcome{"192.0.2.5": after(10 * ms)},
			"192.0.2.5", 1760 * ms, "2001:db8::1 at 0s, 192.0.2.1 at 250ms, 2001:db8::2 at 500ms, 192.0.2.2 at 750ms, " +
				"2001:db8::3 at 1s, 192.0.2.3 at 1.25s, 192.0.2.4 at 1.5s, 192.0.2.5 at 1.75s",
		},
		{
			"the delay starts anew after a failure", outcome{}, at("192.0.2.1 192.0.2.2 192.0.2.3"),
			map[string]outcome{"192.0.2.1": {after: 200 * ms, err: errRefused}, "192.0.2.3": after(1)},
			"192.0.2.3", 450*ms + 1, "192.0.2.1 at 0s, 192.0.2.2 at 200ms, 192.0.2.3 at 450ms",
		},
		{
			"the slow first wins over the slower second", outcome{}, at("192.0.2.1 192.0.2.2"),
			map[string]outcome{"192.0.2.1": after(400 * ms), "192.0.2.2": after(300 * ms)},
			"192.0.2.1", 400 * ms, "192.0.2.1 at 0s, 192.0.2.2 at 250ms",
		},
		{
			"IPv6 addresses are known first", at("2001:db8::1"), outcome{after: 5 * time.Second, addrs: addrs("192.0.2.1")},
			map[string]outcome{"2001:db8::1": after(10 * ms)},
			"2001:db8::1", 10 * ms, "2001:db8::1 at 0s",
		},
		{
			"IPv4 waits for IPv6", outcome{after: 40 * ms, addrs: addrs("2001:db8::1")}, at("192.0.2.1"),
			map[string]outcome{"2001:db8::1": after(10 * ms), "192.0.2.1": after(1)},
			"2001:db8::1", 50 * ms, "2001:db8::1 at 40ms",
		},
		{
			"IPv4 does not wait long", outcome{after: never}, at("192.0.2.1"),
			map[string]outcome{"192.0.2.1": after(10 * ms)},
			"192.0.2.1", 60 * ms, "192.0.2.1 at 50ms",
		},
		{
			"IPv6 comes late", outcome{after: 100 * ms, addrs: addrs("2001:db8::1")}, at("192.0.2.1 192.0.2.2"),
			map[string]outcome{"2001:db8::1": after(10 * ms)},
			"2001:db8::1", 310 * ms, "192.0.2.1 at 50ms, 2001:db8::1 at 300ms",
		},
		{
			"IPv4 in IPv6 is one address", outcome{}, at("::ffff:192.0.2.1 192.0.2.1 192.0.2.2"),
			map[string]outcome{"192.0.2.2": after(10 * ms)},
			"192.0.2.2", 260 * ms, "192.0.2.1 at 0s, 192.0.2.2 at 250ms",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{names: map[string]outcome{"ip6": test.ip6, "ip4": test.ip4}, hosts: test.hosts}
				winner, took, err := w.race(t.Context(), &search{})
				if err != nil || winner != test.winner || took != test.took {
					t.Errorf("%s has won after %v, %v, want %s after %v", winner, took, err, test.winner, test.took)
				}
				if began := strings.Join(w.began, ", "); began != test.began {
					t.Errorf("attempts: %s\nwant %s", began, test.began)
				}
				if n := w.running.Load(); n != 0 {
					t.Errorf("%d look-ups and attempts go on", n)
				}
			})
		})
	}
}

func TestRememberedAddressesStandInForTheResolver(t *testing.T) {
	const known = "192.0.2.7 2001:db8::7 192.0.2.8"
	slow := outcome{after: 5 * time.Second, addrs: addrs("192.0.2.1")}
	for _, test := range []struct {
		name     string
		ip6, ip4 outcome
		patience time.Duration
		hosts    map[string]outcome
		winner   string
		took     time.Duration
		began    string
	}{
		{
			"look-ups fail", outcome{after: 20 * ms, err: errNoName}, outcome{after: 30 * ms, err: errNoName}, 0,
			map[string]outcome{"192.0.2.7": after(10 * ms)},
			"192.0.2.7", 40 * ms, "192.0.2.7 at 30ms",
		},
		{
			"look-ups find nothing", outcome{}, outcome{}, 0,
			map[string]outcome{"192.0.2.7": after(10 * ms)},
			"192.0.2.7", 10 * ms, "192.0.2.7 at 0s",
		},
		{
			"look-ups take for ever", outcome{after: never}, outcome{after: never}, 0,
			map[string]outcome{"2001:db8::7": after(10 * ms)},
			"2001:db8::7", 560 * ms, "192.0.2.7 at 300ms, 2001:db8::7 at 550ms",
		},
		{
			"look-ups take for ever, and memory is in doubt", outcome{after: never}, outcome{after: never}, doubtful,
			map[string]outcome{"192.0.2.7": after(10 * ms)},
			"192.0.2.7", 3010 * ms, "192.0.2.7 at 3s",
		},
		{
			"look-ups are in time", outcome{after: 290 * ms}, outcome{after: 290 * ms, addrs: addrs("192.0.2.1 192.0.2.2")}, 0,
			map[string]outcome{"192.0.2.2": after(10 * ms), "192.0.2.7": after(1)},
			"192.0.2.2", 550 * ms, "192.0.2.1 at 290ms, 192.0.2.2 at 540ms",
		},
		{
			"look-ups are late, and right", outcome{}, outcome{after: 400 * ms, addrs: addrs("192.0.2.1")}, 0,
			map[string]outcome{"192.0.2.1": after(10 * ms)},
			// By then it is the turn of the other family.
			"192.0.2.1", 810 * ms, "192.0.2.7 at 300ms, 2001:db8::7 at 550ms, 192.0.2.1 at 800ms",
		},
		{
			"memory is wrong", slow, slow, 0,
			map[string]outcome{"192.0.2.7": {err: errRefused}, "2001:db8::7": {err: errRefused}, "192.0.2.8": {err: errRefused}, "192.0.2.1": after(10 * ms)},
			"192.0.2.1", 5010 * ms, "192.0.2.7 at 300ms, 2001:db8::7 at 300ms, 192.0.2.8 at 300ms, 192.0.2.1 at 5s",
		},
		{
			"the one that worked last goes first", at("2001:db8::1"), at("192.0.2.1 192.0.2.2 192.0.2.7"), 0,
			map[string]outcome{"2001:db8::1": after(10 * ms)},
			"2001:db8::1", 260 * ms, "192.0.2.7 at 0s, 2001:db8::1 at 250ms",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{names: map[string]outcome{"ip6": test.ip6, "ip4": test.ip4}, hosts: test.hosts}
				winner, took, err := w.race(t.Context(), &search{known: addrs(known), patience: test.patience})
				if err != nil || winner != test.winner || took != test.took {
					t.Errorf("%s has won after %v, %v, want %s after %v", winner, took, err, test.winner, test.took)
				}
				if began := strings.Join(w.began, ", "); began != test.began {
					t.Errorf("attempts: %s\nwant %s", began, test.began)
				}
				if n := w.running.Load(); n != 0 {
					t.Errorf("%d look-ups and attempts go on", n)
				}
			})
		})
	}
}

func TestNetworkThatEatsMultipathTCPCostsOneDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{names: map[string]outcome{"ip6": {err: errNoName}, "ip4": at("192.0.2.1")}, hosts: map[string]outcome{"plain 192.0.2.1": after(10 * ms)}}
		winner, took, err := w.race(t.Context(), &search{again: true})
		if winner != "192.0.2.1" || took != 260*ms {
			t.Errorf("%s has won after %v, %v; attempts: %q", winner, took, err, w.began)
		}
	})
}

func TestOneDialMakesSixteenAttemptsAtMost(t *testing.T) {
	var ip6, ip4 outcome
	hosts := map[string]outcome{}
	for i := range byte(100) {
		a4, a6 := netip.AddrFrom4([4]byte{192, 0, 2, i}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: i})
		ip4.addrs, ip6.addrs = append(ip4.addrs, a4), append(ip6.addrs, a6)
		hosts[a4.String()], hosts[a6.String()] = outcome{err: errRefused}, outcome{err: errRefused}
	}
	for _, s := range []*search{{}, {again: true}, {known: ip4.addrs[50:66]}, {known: ip6.addrs[50:66], again: true}} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{names: map[string]outcome{"ip6": ip6, "ip4": ip4}, hosts: hosts}
			if _, _, err := w.race(t.Context(), s); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Error(err)
			}
			if len(w.began) != maxTargets {
				t.Errorf("%d attempts: %q", len(w.began), w.began)
			}
			if n := len(s.learnt(ip4.addrs[0])); n != maxTargets {
				t.Errorf("%d addresses are remembered", n)
			}
		})
	}
}

func TestRaceClosesTheLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{names: map[string]outcome{"ip6": {}, "ip4": at("192.0.2.1 192.0.2.2 192.0.2.3")}, hosts: map[string]outcome{
			"192.0.2.1": after(600 * ms), // at the same moment as the next
			"192.0.2.2": after(350 * ms),
			"192.0.2.3": {after: time.Second, deaf: true},
		}}
		if _, _, err := w.race(t.Context(), &search{}); err != nil {
			t.Fatal(err)
		}
		open := 0
		for _, c := range w.conns {
			if c.closes.Load() == 0 {
				open++
			}
		}
		if len(w.conns) < 2 || open != 1 {
			t.Errorf("of %d connections %d are open", len(w.conns), open)
		}
	})
}

func TestFailureSaysWhatIsWrongWithTheServer(t *testing.T) {
	noName := &net.DNSError{Err: "server misbehaving", Name: "exit.test"}
	for _, test := range []struct {
		name     string
		ip6, ip4 outcome
		hosts    map[string]outcome
		want     error
	}{
		{"no name", outcome{err: errNoName}, outcome{after: 1, err: noName}, nil, noName},
		{"no addresses", outcome{}, outcome{}, nil, errNoAddress},
		{"refused", at("2001:db8::1"), at("192.0.2.1"), map[string]outcome{"2001:db8::1": {err: errUnreachable}, "192.0.2.1": {err: errRefused}}, errRefused},
		{"refused, then nothing", at("2001:db8::1"), at("192.0.2.1"), map[string]outcome{"2001:db8::1": {err: errRefused}}, errRefused},
		{"no network", at("2001:db8::1"), at("192.0.2.1"), map[string]outcome{"2001:db8::1": {err: errUnreachable}, "192.0.2.1": {err: errUnreachable}}, errUnreachable},
		{"nothing", at("2001:db8::1"), at("192.0.2.1"), nil, context.DeadlineExceeded},
		{"no resolver", outcome{after: never}, outcome{after: never}, nil, context.DeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			w := &world{names: map[string]outcome{"ip6": test.ip6, "ip4": test.ip4}, hosts: test.hosts}
			_, took, err := w.race(ctx, &search{})
			if !errors.Is(err, test.want) || took > 10*time.Second {
				t.Errorf("%s: after %v: %v", test.name, took, err)
			}
			if _, ok := errors.AsType[*net.OpError](err); !ok && test.want != context.DeadlineExceeded {
				t.Errorf("%s: %v does not look like the network's", test.name, err)
			}
		})
	}
}

func TestWhatWasFoundIsLearnt(t *testing.T) {
	for _, test := range []struct{ known, found, at, want string }{
		{"", "192.0.2.1 192.0.2.2", "192.0.2.2", "192.0.2.2 192.0.2.1"},
		{"192.0.2.9 2001:db8::9", "192.0.2.1", "192.0.2.1", "192.0.2.1 2001:db8::9"}, // nothing is new about IPv6
		{"192.0.2.9 2001:db8::9", "192.0.2.1 2001:db8::1", "192.0.2.1", "192.0.2.1 2001:db8::1"},
		{"192.0.2.1 192.0.2.2 2001:db8::9", "", "192.0.2.2", "192.0.2.2 192.0.2.1 2001:db8::9"},
	} {
		s := search{known: addrs(test.known), found: addrs(test.found)}
		if got := s.learnt(netip.MustParseAddr(test.at)); !slices.Equal(got, addrs(test.want)) {
			t.Errorf("%+v: learnt %v", test, got)
		}
	}
}
