package web

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/server/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site serves a config, and gives its address and what ends it.
func site(t *testing.T, cfg Config) (url string, ln net.Listener, end func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := Serve(ctx, ln, cfg); err != nil {
			t.Error(err)
		}
	})
	end = func() { cancel(); running.Wait() }
	t.Cleanup(end)
	return "http://" + ln.Addr().String(), ln, end
}

func get(t *testing.T, url string) (code int, kind, text string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(all)
}

func TestMetricsAreOnePage(t *testing.T) {
	url, _, _ := site(t, Config{Metrics: func(p *metrics.Page) { p.Level("adit_up", "Whether it is.", 1) }})
	code, kind, text := get(t, url+"/metrics")
	if code != http.StatusOK || kind != metrics.ContentType || !strings.HasSuffix(text, "\nadit_up 1\n") {
		t.Errorf("%d, %s:\n%s", code, kind, text)
	}
}

func TestReadinessIsWhatKeepsFromServing(t *testing.T) {
	var obstacle atomic.Pointer[string]
	url, _, _ := site(t, Config{Ready: func(context.Context) []string {
		if o := obstacle.Load(); o != nil {
			return []string{*o}
		}
		return nil
	}})
	if code, _, text := get(t, url+"/readyz"); code != http.StatusOK || text != "ok\n" {
		t.Errorf("%d: %s", code, text)
	}
	obstacle.Store(new("it is stopping"))
	if code, _, text := get(t, url+"/readyz"); code != http.StatusServiceUnavailable || text != "not ready: it is stopping\n" {
		t.Errorf("%d: %s", code, text)
	}
	if code, _, text := get(t, url+"/healthz"); code != http.StatusOK || text != "ok\n" {
		t.Errorf("it lives, and says %d: %s", code, text)
	}
}

func TestNothingElseIsThere(t *testing.T) {
	url, _, _ := site(t, Config{})
	for _, path := range []string{"/", "/debug/pprof/", "/metrics/x", "/status"} {
		if code, _, _ := get(t, url+path); code != http.StatusNotFound {
			t.Errorf("%s gives %d", path, code)
		}
	}
	resp, err := http.Post(url+"/metrics", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST gives %d", resp.StatusCode)
	}
}

func TestServeEndsWhenItsListenerIsTakenAway(t *testing.T) {
	url, ln, end := site(t, Config{})
	get(t, url+"/healthz")
	ln.Close()
	end()
}

func TestWhoSaysNothingKeepsNobodyFromTheEnd(t *testing.T) {
	url, ln, end := site(t, Config{})
	for range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	get(t, url+"/healthz")
	end()
}
