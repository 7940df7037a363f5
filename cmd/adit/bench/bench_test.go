//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// One short round through real processes: what comes out says nothing about speed, but
// every figure is there, and nothing stays behind.
func TestARoundFillsTheTablesForAditAndAnotherBuild(t *testing.T) {
	before := filepath.Join(t.TempDir(), "adit")
	if err := buildAdit(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "b") // t.TempDir's are too long for the paths of sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	var progress bytes.Buffer
	o := options{
		rounds: 1, window: 100 * time.Millisecond, idle: 20, settle: 100 * time.Millisecond,
		only: []string{"direct", "adit", "before"}, builds: []build{{"before", before}},
	}
	tables, err := run(t.Context(), o, &progress)
	if err != nil {
		t.Fatalf("%v, after\n%s", err, &progress)
	}
	t.Log(tables)
	for _, columns := range [][]column{speed(), delay()} {
		table, rest, _ := strings.Cut(tables, "\n\n")
		tables = rest
		lines := strings.Split(table, "\n")
		if len(lines) != 5 || !strings.HasPrefix(lines[2], "| direct |") || !strings.HasPrefix(lines[3], "| adit |") || !strings.HasPrefix(lines[4], "| before |") {
			t.Fatalf("the table has not one line each for direct, adit and before:\n%s", table)
		}
		for _, line := range lines[3:] {
			if got, want := strings.Count(line, " |"), len(columns)+1; got != want || strings.Contains(line, "–") || strings.Contains(line, "hangs") {
				t.Errorf("it has %d cells, want %d, a figure in each: %s", got, want, line)
			}
		}
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

func TestPeersThatDebianHasAreMeasured(t *testing.T) {
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	o := options{rounds: 1, window: 100 * time.Millisecond, idle: 20, settle: 100 * time.Millisecond}
	for _, c := range contenders(nil) {
		if len(c.packages) > 0 {
			o.only = append(o.only, c.name)
		}
	}
	var progress bytes.Buffer
	tables, err := run(t.Context(), o, &progress)
	if err != nil {
		t.Fatalf("%v, after\n%s", err, &progress)
	}
	t.Log(tables)
	for _, title := range []string{titles["ssh"], titles["shadowsocks-libev"], "stunnel + microsocks", "stunnel + Dante"} {
		if strings.Count(tables, "\n| "+title+" |") != 2 {
			t.Errorf("the tables have no two lines for %s", title)
		}
	}
	for _, version := range []string{"OpenSSH ", "shadowsocks-libev ", "stunnel ", "Dante "} {
		if !strings.Contains(tables, ", "+version) {
			t.Errorf("the tables do not say which version of %sthere is", version)
		}
	}
}

func TestBuildsHaveNames(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("program", nil, 0o700); err != nil {
		t.Fatal(err)
	}
	whole, err := filepath.Abs("program")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]build{
		"program":          {today, whole},
		"v1.2=program":     {"v1.2", whole},
		"before=" + whole:  {"before", whole},
		"before=":          {},
		"before=elsewhere": {},
		"../out=program":   {},
		"=program":         {},
	} {
		if got, err := parseBuild(text); (err == nil) != (want != build{}) || err == nil && got != want {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, c := range []struct {
		builds []build
		want   string
	}{
		{nil, "direct adit bare-tls"},
		{[]build{{"before", whole}}, "direct adit before bare-tls"},
		{[]build{{today, whole}, {"before", whole}}, "direct adit before bare-tls"},
	} {
		if got := strings.Join(names(contenders(c.builds)), " "); !strings.HasPrefix(got, c.want+" ") {
			t.Errorf("with %v there are %s, want first %s", c.builds, got, c.want)
		}
	}
	if _, err := choose(contenders([]build{{"ssh", whole}}), nil, io.Discard); err == nil {
		t.Error("two may have the same name")
	}
}

func TestWhatFailsCostsNobodyElseHisFigures(t *testing.T) {
	dir := t.TempDir()
	s := &stage{dir: dir}
	defer s.close()
	nowhere, _, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	b := bench{progress: io.Discard, options: options{rounds: 1, window: 20 * time.Millisecond, idle: 1}}
	err = b.enter(t.Context(), s, []contender{
		{name: "broken", start: func(context.Context, *stage, string) (endpoint, error) { return endpoint{}, io.ErrNoProgress }},
		contenders(nil)[0],
	})
	if len(b.endpoints) != 1 || b.endpoints[0].name != "direct" || !errors.Is(err, io.ErrNoProgress) {
		t.Fatalf("%d are started (%v), want direct alone, and to hear of the other", len(b.endpoints), err)
	}
	b.endpoints = append([]endpoint{{contender: contender{name: "gone"}, door: nowhere}}, b.endpoints...)
	if err := b.measure(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("it says %v, want why one failed", err)
	}
	if len(b.values["gone"]) > 0 || len(b.values["direct"]) < 20 {
		t.Errorf("who is gone has %d figures, direct %d", len(b.values["gone"]), len(b.values["direct"]))
	}
}

// A door whose sessions all wait for one whose app does not read.
func TestWhoHangsBesideAStalledReaderIsSaidTo(t *testing.T) {
	var mu sync.Mutex
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	door := newTargetFor(t, ctx, func(_ *target, app net.Conn) {
		var buf [10]byte
		if _, err := io.ReadFull(app, buf[:3]); err != nil {
			return
		}
		app.Write([]byte{5, 0})
		if _, err := io.ReadFull(app, buf[:]); err != nil {
			return
		}
		c, err := dialTCP(ctx, parseAddress(buf[4:]).String())
		if err != nil {
			return
		}
		app.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			defer c.Close()
			io.Copy(c, app)
		})
		defer app.Close()
		for block := make([]byte, bulkSize); ; {
			n, err := c.Read(block)
			if err != nil {
				return
			}
			mu.Lock()
			_, err = app.Write(block[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	e := endpoint{contender: contender{name: "strict"}, door: door.address.String()}
	b := bench{endpoints: []endpoint{e}, values: map[string]map[figure][]float64{"strict": {}}}
	o := options{window: 100 * time.Millisecond}
	for _, m := range []struct {
		name    figure
		stalled int
		want    string
	}{{"loaded", 0, "[0-9.]+ / [0-9.]+"}, {"stalled", unread, "hangs"}} {
		seen, err := beside(m.name, m.stalled)(ctx, e, o)
		if err != nil {
			t.Fatal(err)
		}
		for f, v := range seen {
			b.values["strict"][f] = []float64{v}
		}
		cell := b.cell(e, column{figures: []figure{m.name + " p99", m.name}, digits: 2})
		if !regexp.MustCompile("^" + m.want + "$").MatchString(cell) {
			t.Errorf("%s is %s, want %s", m.name, cell, m.want)
		}
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
	// The child ends when its parent's end of the pipe is gone.
	p, err := s.start(t.Context(), dir, "sh", "-c", "mkfifo held; sh -c 'echo ready; read -r line' <held & exec 3>held; wait")
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

func TestAProcessCountsWithThoseThatHaveEnded(t *testing.T) {
	dir := t.TempDir()
	s := &stage{dir: dir}
	defer s.close()
	p, err := s.start(t.Context(), dir, "sh", "-c", `sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo ready; while :; do sleep 1; done`)
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
	if u, err := usageOf([]*process{p}); err != nil || u.cpu < 5*clockTick {
		t.Errorf("it has used %v (%v), less than its child has alone", u.cpu, err)
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
