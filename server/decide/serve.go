package decide

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

const (
	maxConns    = 512              // at once; more wait
	askLimit    = 5 * time.Second  // for a request to come, the handshake of its connection included
	answerLimit = 10 * time.Second // for the answer to be taken
	idleLimit   = 2 * time.Minute  // between requests
)

// Serve answers what comes to a listener until ctx ends, and then until what is under way has
// been answered. It closes the listener. With a TLS config, connections have to use that.
func (p *Point) Serve(ctx context.Context, ln net.Listener, t *tls.Config) error {
	var answers sync.WaitGroup
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answers.Add(1) // its connection counts, so nobody waits yet
			defer answers.Done()
			p.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: askLimit,
		ReadTimeout:       askLimit,
		WriteTimeout:      answerLimit,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	ln = netutil.LimitListener(ln, maxConns)
	if t != nil {
		ln = tls.NewListener(ln, t)
	}
	defer answers.Wait()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	var err error
	select {
	case err = <-ended:
		shutDown(s)
	case <-ctx.Done():
		shutDown(s)
		err = <-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve decisions: %w", err)
}

// shutDown lets the answers that are under way get out.
func shutDown(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close() // that was all that could be done
	}
}
