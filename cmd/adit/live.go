package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// What a reload can replace while connections go on. Each connection keeps what
// it began with.

// liveExit is a [socks.Relay] that can be replaced.
type liveExit struct{ atomic.Pointer[server.Exit] }

func (e *liveExit) Connect(ctx context.Context, r socks.Request) (relay.Conn, socks.Reply, error) {
	return e.Load().Connect(ctx, r)
}

func (e *liveExit) Bind(ctx context.Context, r socks.Request) (socks.Binding, socks.Reply, error) {
	return e.Load().Bind(ctx, r)
}

func (e *liveExit) Associate(ctx context.Context, r socks.Request, in socks.Inbox) (socks.Association, socks.Reply, error) {
	return e.Load().Associate(ctx, r, in)
}

// liveCertificate is a certificate that can be replaced.
type liveCertificate struct {
	atomic.Pointer[tls.Certificate]
}

func (c *liveCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.Load(), nil }

// liveSite is a web site that can be replaced by another one, but not by the
// built-in page or in its place.
type liveSite struct{ current atomic.Pointer[http.Handler] }

// handler gives what stands for the site, or nil if that is the built-in page.
func (s *liveSite) handler() http.Handler {
	if s.current.Load() == nil {
		return nil
	}
	return s
}

func (s *liveSite) set(h http.Handler) {
	if h == nil {
		return
	}
	if old := s.current.Swap(&h); old != nil {
		closeIdle(*old)
	}
}

func (s *liveSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*s.current.Load()).ServeHTTP(w, r)
}

// CloseIdleConnections lets go of what the site has open.
func (s *liveSite) CloseIdleConnections() { closeIdle(*s.current.Load()) }

func closeIdle(h http.Handler) {
	if h, ok := h.(interface{ CloseIdleConnections() }); ok {
		h.CloseIdleConnections()
	}
}

// newSite makes the web site that a config describes; nil is the built-in page.
func newSite(cfg siteConfig, log *slog.Logger) (http.Handler, error) {
	switch {
	case cfg.Dir != "":
		return tlslink.SiteDir(cfg.Dir), nil
	case cfg.Proxy != "":
		target, err := url.Parse(cfg.Proxy)
		if err != nil {
			return nil, fmt.Errorf("read site.proxy: %w", err)
		}
		return tlslink.SiteProxy(target, log), nil
	}
	return nil, nil
}

// loadCertificate reads the config's certificate, or makes one for the server's own key.
// Relative names are those of files in the server's directory.
func loadCertificate(cfg serverConfig, dir string, key *keys.Server) (*tls.Certificate, error) {
	if cfg.TLS.Cert == "" {
		host := cfg.Name
		if h, _, err := net.SplitHostPort(cfg.Name); err == nil {
			host = h
		}
		cert, err := key.Certificate(cmp.Or(host, "localhost"))
		return &cert, err
	}
	cert, err := tls.LoadX509KeyPair(within(dir, cfg.TLS.Cert), within(dir, cfg.TLS.Key))
	if err != nil {
		return nil, hint(fmt.Errorf("load certificate: %w", err), "tls.cert and tls.key in server.toml name PEM files that belong together")
	}
	if cert.Leaf == nil {
		cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
	}
	return &cert, err
}

// listenHint says what to do about an address that cannot be listened on.
func listenHint(err error, address string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return hint(fmt.Errorf("another program listens on %s", address), "stop it, or choose another port")
	case errors.Is(err, syscall.EACCES):
		return hint(fmt.Errorf("listening on %s is not permitted", address), "choose a port above 1023, or: setcap cap_net_bind_service=+ep the adit binary")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return hint(fmt.Errorf("this machine has no address %s", address), "ip addr shows those it has")
	}
	return err
}
