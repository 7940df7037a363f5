// Package web is what the server says of itself over HTTP: metrics for Prometheus, and for
// load balancers and service managers whether it lives and whether it would serve.
//
// Nobody has to prove who he is, so nothing here names a user, a device or a target. It is for
// those who are meant to look: one machine, or the network of those who run it.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/adit-net/adit/server/httpd"
	"github.com/adit-net/adit/server/metrics"
)

const (
	// maxConns is how many may ask at once. Whoever comes later waits.
	maxConns = 32

	// askTimeout bounds a question, answerTimeout its answer. idleTimeout is longer than
	// most wait between two questions.
	askTimeout    = 5 * time.Second
	answerTimeout = 10 * time.Second
	idleTimeout   = 75 * time.Second
)

// Config says what there is to tell. Its functions are called concurrently.
type Config struct {
	// Metrics writes all there are. Whoever asks waits for it.
	Metrics func(*metrics.Page)

	// Ready tells what keeps the server from serving, each in a few words that give nothing
	// away; none: it does serve.
	Ready func(context.Context) []string

	Log *slog.Logger // nil means slog.Default
}

// Serve answers at ln, which it closes, until ctx ends or somebody else closes ln. It returns when
// the last answer is out.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &http.Server{
		Handler:           handler(cfg),
		ReadHeaderTimeout: askTimeout,
		ReadTimeout:       askTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	// Where another process has taken over, the listener is closed.
	if err := httpd.Serve(ctx, s, netutil.LimitListener(ln, maxConns), time.Second); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

func handler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		var p metrics.Page
		cfg.Metrics(&p)
		answer(w, http.StatusOK, metrics.ContentType, p.Text())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, plain, []byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		obstacles := cfg.Ready(ctx)
		if len(obstacles) == 0 {
			answer(w, http.StatusOK, plain, []byte("ok\n"))
			return
		}
		var text []byte
		for _, o := range obstacles {
			text = append(text, "not ready: "+o+"\n"...)
		}
		answer(w, http.StatusServiceUnavailable, plain, text)
	})
	return mux
}

const plain = "text/plain; charset=utf-8"

func answer(w http.ResponseWriter, code int, kind string, text []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(text) // whoever has asked may have gone
}
