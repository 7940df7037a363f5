package decide

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/adit-net/adit/server/httpd"
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
	s := &http.Server{
		Handler:           p,
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
	if err := httpd.Serve(ctx, s, ln, time.Second); err != nil {
		return fmt.Errorf("serve decisions: %w", err)
	}
	return nil
}
