package main

import (
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/metrics"
	"github.com/adit-net/adit/server/users"
)

// dashboard is what a test wants of testdata/grafana/adit.json.
type dashboard struct {
	Panels []struct {
		Type    string
		Title   string
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Type  string
			Query json.RawMessage
		}
	}
	Annotations struct {
		List []struct{ Expr string }
	}
}

// queries gives all that the dashboard asks Prometheus.
func (d dashboard) queries(t *testing.T) (all []string) {
	t.Helper()
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			all = append(all, string(v.Query))
		}
	}
	for _, a := range d.Annotations.List {
		all = append(all, a.Expr)
	}
	return all
}

func TestDashboardAsksForMetricsThatThereAreAndForAllOfAditsOwn(t *testing.T) {
	text, err := os.ReadFile("../../testdata/grafana/adit.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	there, asked := samplesOf(t, wholePage(t)), make(map[string]bool)
	name := regexp.MustCompile(`\b(?:adit|go|process)_[a-z_]+`)
	for _, q := range d.queries(t) {
		names := name.FindAllString(q, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for no metric", q)
		}
		for _, n := range names {
			asked[n] = true
			if !there[n] && (runtime.GOOS == "linux" || !strings.HasPrefix(n, "process_")) {
				t.Errorf("%s asks for %s, which there is not", q, n)
			}
		}
	}
	for n := range there {
		histogram := regexp.MustCompile(`_(sum|count)$`).ReplaceAllString(n, "_bucket")
		if strings.HasPrefix(n, "adit_") && !asked[n] && !asked[histogram] {
			t.Errorf("the dashboard does not show %s", n)
		}
	}
}

// wholePage is all that a server with everything has to tell.
func wholePage(t *testing.T) string {
	t.Helper()
	store, err := users.Create(t.Context(), filepath.Join(t.TempDir(), storeFile))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	log, err := audit.Open(t.Context(), audit.Config{Dir: filepath.Join(t.TempDir(), "audit")})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &serverProcess{since: time.Now(), server: server.New(server.Config{Users: store, Relay: &server.Exit{}, Decider: decide.New(slog.New(slog.DiscardHandler)), Audit: log})}
	p.exit.Store(&server.Exit{})
	var page metrics.Page
	p.metrics(&page)
	return string(page.Text())
}

// The lines of the text format, as adit writes them.
var (
	metricHelp   = regexp.MustCompile(`^# HELP ([a-z][a-z0-9_]*) [A-Z0-9].*\.$`)
	metricType   = regexp.MustCompile(`^# TYPE ([a-z][a-z0-9_]*) (counter|gauge|histogram)$`)
	metricSample = regexp.MustCompile(`^([a-z][a-z0-9_]*)(\{[a-z]+="[^"\\]*"(?:,[a-z]+="[^"\\]*")*\})? (\d+(?:\.\d+)?(?:e[+-]\d+)?)$`)
)

// samplesOf gives the names of the samples on a page, which must be as Prometheus wants it.
func samplesOf(t *testing.T, page string) map[string]bool {
	t.Helper()
	names, series := make(map[string]bool), make(map[string]bool)
	var family, kind string
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if m := metricHelp.FindStringSubmatch(line); m != nil && !series[m[1]] {
			family, kind, series[m[1]] = m[1], "", true
		} else if m := metricType.FindStringSubmatch(line); m != nil && m[1] == family && kind == "" {
			kind = m[2]
		} else if m := metricSample.FindStringSubmatch(line); m != nil && fitsFamily(m[1], family, kind) && !series[m[1]+m[2]+" "] {
			names[m[1]], series[m[1]+m[2]+" "] = true, true
		} else {
			t.Errorf("%s has the line %q", family, line)
		}
		if kind != "" && (kind == "counter") != strings.HasSuffix(family, "_total") {
			t.Errorf("%s is a %s", family, kind)
		}
	}
	return names
}

func fitsFamily(name, family, kind string) bool {
	switch kind {
	case "counter", "gauge":
		return name == family
	case "histogram":
		return name == family+"_bucket" || name == family+"_sum" || name == family+"_count"
	}
	return false
}

func TestMetricsHaveFewLabelsWithFewValues(t *testing.T) {
	values := make(map[string]map[string]bool)
	for _, m := range regexp.MustCompile(`([a-z]+)="([^"]*)"`).FindAllStringSubmatch(wholePage(t), -1) {
		if values[m[1]] == nil {
			values[m[1]] = make(map[string]bool)
		}
		values[m[1]][m[2]] = true
	}
	known := []string{"carrier", "command", "decision", "direction", "goversion", "le", "method", "protocol", "reason", "result", "state", "version"}
	if labels := slices.Sorted(maps.Keys(values)); !slices.Equal(labels, known) {
		t.Errorf("there are the labels %q", labels)
	}
	for label, all := range values {
		if len(all) > 40 {
			t.Errorf("%s has %d values", label, len(all))
		}
	}
}

func TestMetricsListenWhereOneAddressIsNamed(t *testing.T) {
	for address, good := range map[string]bool{
		"": true, "127.0.0.1:9464": true, "[::1]:9464": true, "192.0.2.1:9464": true, "[::]:9464": true,
		":9464": false, "localhost:9464": false, "127.0.0.1": false, "127.0.0.1:http": false,
	} {
		wrong := false
		metricsConfig{Listen: address}.validate(func(_, _, _ string) { wrong = true })
		if wrong == good {
			t.Errorf("%q is taken: %v", address, !wrong)
		}
	}
}
