//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const deskPrometheus = "127.0.0.1:9090"

// TestPrometheusReadsMetricsAndAnswersTheDashboard has Prometheus itself judge what a server
// tells, scrape it, and answer every question of the dashboard.
func TestPrometheusReadsMetricsAndAnswersTheDashboard(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "metricsdesk")
	d.download(t)
	d.refused(t, "169.254.169.254")

	page := d.output(t, "curl", "-sS", "http://"+deskMetrics+"/metrics")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lint := command(ctx, d.home, "promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(page)
	if said, err := lint.CombinedOutput(); err != nil || len(said) > 0 {
		t.Errorf("promtool: %v\n%s", err, said)
	}

	config := filepath.Join(d.home, "prometheus.yml")
	text := "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n" +
		"scrape_configs: [{job_name: adit, static_configs: [{targets: ['" + deskMetrics + "']}]}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.run(t, "Prometheus", "", "prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(d.home, "tsdb"),
		"--web.listen-address="+deskPrometheus, "--log.level=warn")
	until(t, "that Prometheus has looked often enough", func() bool {
		answer, err := d.query(t, `rate(adit_flow_bytes_total{direction="down"}[5s]) > 0`)
		return err == nil && len(answer) == 1
	})
	for _, q := range dashboardQueries(t) {
		answer, err := d.query(t, q)
		if err != nil {
			t.Errorf("%s: %v", q, err)
		} else if len(answer) == 0 && !strings.Contains(q, "> 0") {
			t.Errorf("%s: nothing comes of it", q)
		}
	}
}

// query asks Prometheus, and gives the series that come of it.
func (d *desk) query(t *testing.T, q string) ([]json.RawMessage, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := command(ctx, d.home, "curl", "-sSG", "--fail-with-body", "--data-urlencode", "query="+q, "http://"+deskPrometheus+"/api/v1/query")
	out, err := d.ns.output(cmd)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct{ Result []json.RawMessage }
	}
	err = json.Unmarshal([]byte(out), &answer)
	return answer.Data.Result, err
}

// dashboardQueries are what the dashboard asks, as Grafana would put it.
func dashboardQueries(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile("../../../testdata/grafana/adit.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
		Annotations struct {
			List []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$job", ".*", "$instance", ".*", "$__rate_interval", "5s")
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all = append(all, variables.Replace(target.Expr))
		}
	}
	for _, a := range dashboard.Annotations.List {
		all = append(all, variables.Replace(a.Expr))
	}
	if len(all) < 20 {
		t.Fatalf("the dashboard asks %d things", len(all))
	}
	return all
}
