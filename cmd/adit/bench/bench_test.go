//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// One short round through real processes: what comes out says nothing about speed, but
// every figure is there, and nothing stays behind.
func TestARoundFillsTheTableForAdit(t *testing.T) {
	dir, err := os.MkdirTemp("", "b") // t.TempDir's are too long for the paths of sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	var progress bytes.Buffer
	o := options{
		rounds: 1, window: 100 * time.Millisecond, idle: 20, settle: 100 * time.Millisecond,
		only: []string{"direct", "adit"},
	}
	table, err := run(t.Context(), o, &progress)
	if err != nil {
		t.Fatalf("%v, after\n%s", err, &progress)
	}
	t.Log(table)
	lines := strings.Split(table, "\n")
	if len(lines) < 4 || !strings.HasPrefix(lines[2], "| direct |") || !strings.HasPrefix(lines[3], "| adit |") {
		t.Fatalf("the table has no lines for direct and adit:\n%s", table)
	}
	if got, want := strings.Count(lines[3], " |"), len(columns())+1; got != want || strings.Contains(lines[3], "–") {
		t.Errorf("adit's line has %d cells, want %d, none of them empty: %s", got, want, lines[3])
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("these stay behind: %v (%v)", left, err)
	}
}

func TestWhatIsNotInstalledIsLeftOutAndNamed(t *testing.T) {
	all := []contender{
		{name: "direct"},
		{name: "unheard-of", programs: []string{"no-such-program"}, packages: []string{"some-package"}},
	}
	var progress bytes.Buffer
	chosen, err := choose(all, nil, &progress)
	if err != nil || len(chosen) != 1 || chosen[0].name != "direct" {
		t.Errorf("chosen are %v (%v), want direct alone", names(chosen), err)
	}
	want := "unheard-of is left out: no-such-program not installed (Debian has it in some-package)\n"
	if progress.String() != want {
		t.Errorf("it says %q, want %q", &progress, want)
	}
	if _, err := choose(all, []string{"misspelt"}, &progress); err == nil {
		t.Error("a name that does not exist is taken")
	}
}

// TLS to the exit, as the client's half of the yardstick makes it.
func TestYardstickCarriesBothWaysToTheEnd(t *testing.T) {
	cert, key, err := makeCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatalf("the certificate cannot be read: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server := newTargetFor(t, ctx, func(_ *target, c net.Conn) {
		_ = relayOut(ctx, tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}))
	})
	dialer := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}}
	door := newTargetFor(t, ctx, func(_ *target, c net.Conn) {
		_ = relayIn(ctx, c.(*net.TCPConn), dialer, server.address.String())
	})
	echoing := newTargetFor(t, ctx, echo)
	c, err := endpoint{door: door.address.String()}.session(ctx, echoing.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("the last words")); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "the last words" || err != nil {
		t.Errorf("back come %q (%v)", got, err)
	}
}

func newTargetFor(t *testing.T, ctx context.Context, behave func(*target, net.Conn)) *target {
	t.Helper()
	target, err := newTarget(ctx, behave)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.close)
	return target
}

func TestAProcessCountsWithThoseItHasStarted(t *testing.T) {
	dir := t.TempDir()
	s := &stage{dir: dir}
	defer s.close()
	p, err := s.start(t.Context(), dir, "sh", "-c", "sh -c 'echo ready; read -r line' </dev/ptmx & wait")
	if err != nil {
		t.Fatal(err)
	}
	err = p.until(t.Context(), func(context.Context) error {
		if p.lastWords() != "ready" {
			return io.ErrNoProgress
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, parent, alone, err := readStat(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil || parent != os.Getpid() {
		t.Fatalf("its parent is %d (%v), want %d", parent, err, os.Getpid())
	}
	if all, err := usageOf([]*process{p}); err != nil || all.rss <= alone.rss {
		t.Errorf("with its child it has %d bytes (%v), alone %d", all.rss, err, alone.rss)
	}
}

func TestTableIsReplacedBetweenItsLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	for _, table := range []string{"first\n", "second\n"} {
		if table == "first\n" {
			if err := replaceTable(path, table); err == nil {
				t.Error("a file that is not there is written")
			}
			if err := os.WriteFile(path, []byte("before\n<!-- bench -->\n<!-- /bench -->\nafter\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := replaceTable(path, table); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if want := "before\n<!-- bench -->\n" + table + "<!-- /bench -->\nafter\n"; string(got) != want || err != nil {
			t.Errorf("it holds %q (%v), want %q", got, err, want)
		}
	}
}

func TestNumbersAreMediansWithThousandsApart(t *testing.T) {
	for _, c := range []struct {
		values []float64
		digits int
		want   string
	}{
		{[]float64{3, 1, 2}, 2, "2.00"},
		{[]float64{1000, 2001}, 0, "1,500"},
		{[]float64{1234567.89}, 1, "1,234,567.9"},
		{[]float64{-123}, 0, "-123"},
		{[]float64{999}, 0, "999"},
	} {
		if got := number(median(c.values), c.digits); got != c.want {
			t.Errorf("%v becomes %s, want %s", c.values, got, c.want)
		}
	}
}
