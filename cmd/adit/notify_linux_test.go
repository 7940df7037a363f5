package main

import (
	"context"
	"crypto/rand"
	"net"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// listenNotify stands in for systemd at an address, and gives what it is told.
func listenNotify(t *testing.T, address string) (next func() string) {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", address)
	return func() string {
		b := make([]byte, 256)
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("systemd is told nothing: %v", err)
		}
		return string(b[:n])
	}
}

func TestSystemdIsToldAtEitherKindOfSocket(t *testing.T) {
	for _, address := range []string{filepath.Join(t.TempDir(), "notify"), "@adit-test-" + rand.Text()} {
		next := listenNotify(t, address)
		if err := notify("READY=1"); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != "READY=1" {
			t.Errorf("at %s systemd is told %q", address, got)
		}
		if err := notifyReloading(); err != nil {
			t.Fatal(err)
		}
		if got := next(); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`).MatchString(got) {
			t.Errorf("at %s systemd is told %q", address, got)
		}
	}
}

func TestWatchdogIsFedUntilTheEnd(t *testing.T) {
	next := listenNotify(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "20000")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watchdog(ctx) }()
	for range 3 {
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("systemd is told %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNothingIsToldWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	if err := notify("READY=1"); err != nil {
		t.Error(err)
	}
	if err := watchdog(t.Context()); err != nil {
		t.Error(err)
	}
}
