package ipsec

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// followed gives what is told of a path for as long as the test lasts, and what was seen
// first. Nothing is looked at but when something has been heard.
func followed(t *testing.T, d *Detector, p Path) <-chan Protection {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan Protection, 100)
	paths := Paths{Detector: d}
	f := paths.Follow(ctx, p, func(p Protection) { calls <- p })
	calls <- f.Protection()
	var running sync.WaitGroup
	running.Go(func() { paths.serve(ctx, time.Hour) })
	t.Cleanup(func() { f.Stop(); cancel(); running.Wait() })
	return calls
}

// await waits until something is told that is as wanted.
func await(t *testing.T, calls <-chan Protection, within time.Duration, what string, wanted func(Protection) bool) {
	t.Helper()
	late := time.After(within)
	for {
		select {
		case c := <-calls:
			if wanted(c) {
				return
			}
			t.Logf("before %s: %+v", what, c)
		case <-late:
			t.Fatalf("%s was not told", what)
		}
	}
}

func TestPoliciesAndRoutesAreHeardOf(t *testing.T) {
	calls := followed(t, &Detector{}, Path{Remote: netip.MustParseAddrPort("10.2.0.7:80")})
	because := func(reason string) func(Protection) bool {
		return func(p Protection) bool { return !p.Protected() && strings.HasPrefix(p.Reason, reason) }
	}
	const within = 30 * time.Second
	await(t, calls, within, "that there is no IPsec", because("there is no IPsec on this machine"))

	load(t, "src 10.9.0.0/24 dst 10.2.0.0/16 dir out action block")
	await(t, calls, within, "a policy", because("no IPsec policy covers outgoing packets"))
	load(t, "src 10.1.0.0/24 dst 10.2.0.0/16 dir out action block")
	await(t, calls, within, "the policy", because("an IPsec policy blocks outgoing packets"))

	if err := ip("route add blackhole 10.2.0.0/24"); err != nil {
		t.Fatal(err)
	}
	await(t, calls, within, "the route", because("look at path to 10.2.0.7"))
	if err := ip("route del blackhole 10.2.0.0/24"); err != nil {
		t.Fatal(err)
	}
	await(t, calls, within, "its end", because("an IPsec policy blocks outgoing packets"))
	if err := ip("xfrm policy flush"); err != nil {
		t.Fatal(err)
	}
	await(t, calls, within, "the policy's end", because("there is no IPsec on this machine"))
}

func TestAssociationsAreHeardOf(t *testing.T) {
	if err := ip("xfrm state allocspi src 10.1.0.1 dst 10.1.0.2 proto esp mode transport"); err != nil {
		t.Fatal(err)
	}
	notices, err := subscribe(unix.NETLINK_XFRM, policyGroups)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan struct{}, 100)
	var listener sync.WaitGroup
	listener.Go(func() { hearKernel(ctx, notices, func() { heard <- struct{}{} }) })
	defer listener.Wait()
	defer cancel()
	<-heard // that it begins
	if err := ip("xfrm state flush"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-time.After(30 * time.Second):
		t.Error("nothing was heard")
	}
}

func TestKernelIsHeardAgainAfterNoticesHaveFailed(t *testing.T) {
	failed, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	end.Close()
	notices, kernel, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan struct{}, 100)
	var listener sync.WaitGroup
	listener.Go(func() {
		keepHearing(ctx, failed, func() (*os.File, error) { return notices, nil }, func() { heard <- struct{}{} })
	})
	defer listener.Wait()
	defer cancel()
	if _, err := kernel.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"that it begins", "that it begins again", "a notice"} {
		select {
		case <-heard:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s was not heard", what)
		}
	}
}

// Who has no privilege sees routes, but neither policies nor what changes them.
func TestWithoutPrivilegeOnlyTheStatementCounts(t *testing.T) {
	path := Path{Remote: netip.MustParseAddrPort("10.2.0.7:80")}
	stated := Detector{Networks: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		nothing := [2]unix.CapUserData{}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &nothing[0]); err != nil {
			t.Error(err)
			return
		}
		if got, err := new(Detector).Look(t.Context(), path); !errors.Is(err, fs.ErrPermission) || got.Protected() {
			t.Errorf("%+v, %v", got, err)
		}
		if got, err := stated.Look(t.Context(), path); err != nil || got.Mechanism != Stated {
			t.Errorf("%+v, %v", got, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var listeners sync.WaitGroup
		if hears := new(Detector).listen(ctx, &listeners, func() {}); hears {
			t.Error("it believes that it hears of everything")
		}
		cancel()
		listeners.Wait()
	}()
	<-done
}
