package netwatch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	limit    = 500 * time.Millisecond // from a change to the call
	patience = 10 * time.Second
)

// ip runs commands of the program ip.
func ip(t *testing.T, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", c, err, out)
		}
	}
}

// newLink makes a link with two ends, near and far, that lives as long as the
// test. It gets no addresses by itself.
func newLink(t *testing.T) {
	ip(t, "link add near type veth peer name far")
	t.Cleanup(func() { exec.Command("ip", "link", "del", "near").Run() }) // the test may have done it
	ip(t, "link set near addrgenmode none", "link set far addrgenmode none", "link set far up")
}

// start runs f until the test ends.
func start(t *testing.T, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// observed is a watcher that is told by the kernel, as Watch makes it, and that
// says when it has looked.
type observed struct {
	looks   atomic.Int64
	looked  chan struct{}
	changes chan time.Time
}

func observe(t *testing.T) *observed {
	o := &observed{looked: make(chan struct{}, 1), changes: make(chan time.Time, 100)}
	notices, look, err := subscribe()
	if err != nil {
		t.Fatal(err)
	}
	hints := make(chan struct{}, 1)
	w := watcher{clock: newClock(), hints: hints, seed: maphash.MakeSeed()}
	w.Changed = func() { o.changes <- time.Now() }
	w.look = func(f *fingerprint) error {
		err := look(f)
		if err != nil {
			t.Errorf("look: %v", err)
		}
		o.looks.Add(1)
		select {
		case o.looked <- struct{}{}:
		default:
		}
		return err
	}
	start(t, func(context.Context) { read(notices, hints) })
	start(t, func(ctx context.Context) {
		defer notices.Close()
		w.run(ctx)
	})
	o.awaitLook(t)
	return o
}

func (o *observed) awaitLook(t *testing.T) {
	t.Helper()
	select {
	case <-o.looked:
	case <-time.After(patience):
		t.Fatal("nobody looked")
	}
}

// rest waits until nobody has looked for a while. The kernel says nothing any
// more then, and what it said before was seen.
func (o *observed) rest(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		select {
		case <-o.looked:
		case <-time.After(3 * settle):
			for len(o.changes) > 0 {
				<-o.changes
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no rest")
		}
	}
}

func TestChangesOfLinksAddressesAndRoutesAreTold(t *testing.T) {
	newLink(t)
	o := observe(t)
	for _, change := range []string{
		"link set near up",
		"addr add 192.0.2.1/24 dev near",
		"addr add 2001:db8::1/64 dev near nodad",
		"route add default via 192.0.2.2",
		"route replace default via 192.0.2.3",
		"-6 route add default via 2001:db8::2",
		"-6 route add 2001:db8:1::/48 via 2001:db8::2",
		"route add default via 192.0.2.2 metric 5 table 1000",
		"rule add to 198.51.100.0/24 lookup 1000",
		"-6 rule add from 2001:db8::1 lookup 1000",
		"rule del to 198.51.100.0/24 lookup 1000",
		"-6 rule del from 2001:db8::1 lookup 1000",
		"-6 route del default",
		"route del default",
		"addr del 2001:db8::1/64 dev near",
		"addr add 192.0.2.9/24 dev near",
		"addr del 192.0.2.9/24 dev near",
		"link set far down", // the cable is pulled
		"link set far up",
		"link set near down",
		"link set near up",
		"link del near",
	} {
		o.rest(t)
		ip(t, change)
		began := time.Now()
		select {
		case told := <-o.changes:
			t.Logf("%-52s %v", change, told.Sub(began).Round(time.Microsecond))
		case <-time.After(limit):
			t.Errorf("ip %s: nobody was told within %v", change, limit)
		}
	}
}

// A new IPv6 address may be another machine's, and cannot be used before that
// is clear; its route is there at once.
func TestAddressIsToldWhenItCanBeUsed(t *testing.T) {
	newLink(t)
	ip(t, "link set near up")
	o := observe(t)
	o.rest(t)
	ip(t, "addr add 2001:db8::5/64 dev near")
	for usable := false; !usable; {
		select {
		case <-o.changes:
		case <-time.After(patience):
			t.Fatal("nobody was told")
		}
		var err error
		if usable, err = canBind(netip.MustParseAddr("2001:db8::5")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatChangesNoPathIsNotTold(t *testing.T) {
	newLink(t)
	ip(t, "link set near up",
		"addr add 192.0.2.1/24 dev near valid_lft 1000 preferred_lft 1000",
		"addr add 2001:db8::1/64 dev near nodad valid_lft 1000 preferred_lft 1000",
		"route add default via 192.0.2.2",
		"-6 route add default via 2001:db8::2 expires 1000")
	o := observe(t)
	for _, noise := range []string{
		"addr change 192.0.2.1/24 dev near valid_lft 2000 preferred_lft 2000", // a lease is renewed
		"addr change 2001:db8::1/64 dev near valid_lft 2000 preferred_lft 2000",
		"-6 route replace default via 2001:db8::2 expires 2000", // a router advertises itself
		"route replace default via 192.0.2.2 advmss 1000",
		"link set near alias another-name",
		"link set near txqueuelen 77",
		"link add idle type veth peer name idle2", // not up
		"link del idle",
	} {
		o.rest(t)
		ip(t, noise)
		o.awaitLook(t)
		select {
		case <-o.changes:
			t.Errorf("ip %s: it was told", noise)
		default:
		}
	}
}

// A socket's queue overflows when many things change.
func TestNoticeThatWasLostIsANotice(t *testing.T) {
	newLink(t)
	ip(t, "link set near up")
	probe, notices := listen(t), listen(t)
	var batch strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&batch, "link set near alias name%d\n", i)
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	if _, err := probe.Read(make([]byte, 1)); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("read: %v, want ENOBUFS", err)
	}
	hints := make(chan struct{}, 1)
	start(t, func(context.Context) { read(notices, hints) })
	t.Cleanup(func() { notices.Close() })
	select {
	case _, open := <-hints:
		if !open {
			t.Error("the reader has given up")
		}
	case <-time.After(patience):
		t.Error("there is no hint")
	}
}

func listen(t *testing.T) *os.File {
	notices, _, err := subscribe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notices.Close() })
	return notices
}

// Apps on Android may not listen, and may not ask either.
func TestEverySystemShowsAddressesAndDefaultRoutes(t *testing.T) {
	newLink(t)
	seed := maphash.MakeSeed()
	look := func() uint64 {
		f := fingerprint{seed: seed}
		if err := lookAround(&f); err != nil {
			t.Fatal(err)
		}
		return f.sum
	}
	ip(t, "link set near up", "link set far up")
	before := look()
	for _, change := range []string{
		"addr add 192.0.2.1/24 dev near",
		"addr add 198.51.100.1/24 dev near",
		"addr add 2001:db8::1/64 dev near nodad",
		"route add default via 192.0.2.2",
		"route replace default via 198.51.100.2",
		"-6 route add default via 2001:db8::2",
		"link set far down",
		"link set near down",
	} {
		ip(t, change)
		after := look()
		if after == before {
			t.Errorf("ip %s: nothing to be seen", change)
		}
		if again := look(); again != after {
			t.Errorf("ip %s: looks differ although nothing changes", change)
		}
		before = after
	}
}

func TestWatchTellsOfChangesAndOfSleep(t *testing.T) {
	newLink(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"="+stoppable)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	start(t, func(context.Context) {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	})
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range lines {
		}
		cmd.Wait()
	})
	next := func(d time.Duration) string {
		select {
		case line := <-lines:
			return line
		case <-time.After(d):
			return ""
		}
	}

	// Before it has begun to watch, nothing has changed.
	told := ""
	for i := 0; told == "" && i < 20; i++ {
		ip(t, "link set near up")
		if told = next(limit); told == "" {
			ip(t, "link set near down")
			told = next(limit)
		}
	}
	if told != "changed" {
		t.Fatalf("it printed %q", told)
	}

	const stop = longTick + nap + 500*time.Millisecond // a tick and the shortest sleep, and a little
	stopped := time.Now()
	for _, s := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if s == unix.SIGSTOP {
			time.Sleep(stop)
		}
	}
	for told = next(patience); told == "changed"; {
		told = next(patience)
	}
	slept, err := time.ParseDuration(strings.TrimPrefix(told, "slept "))
	if err != nil || slept < stop-longTick || slept > time.Since(stopped) {
		t.Errorf("it printed %q", told)
	}
}

// Nothing but a sleep or another clock makes the kernel tell; a test can have neither.
func TestClockIsSilentAndCanBeClosed(t *testing.T) {
	clock, err := subscribeToClock()
	if err != nil {
		t.Fatal(err)
	}
	wakes := make(chan struct{}, 1)
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() { read(clock, wakes) })
	select {
	case <-wakes:
		t.Error("it tells of a wake at once")
	case <-time.After(50 * time.Millisecond):
	}
	if err := clock.Close(); err != nil {
		t.Fatal(err)
	}
	for open := true; open; {
		_, open = <-wakes
	}
}

func BenchmarkLook(b *testing.B) {
	for name, look := range map[string]func(*fingerprint) error{"kernel": lookAtKernel, "portable": lookAround} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				look(&fingerprint{seed: maphash.MakeSeed()})
			}
		})
	}
}
