package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"runtime"

	"github.com/adit-net/adit/server/metrics"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/server/web"
)

// serveMetrics tells at a listener how the server is doing, until ctx ends.
func (p *serverProcess) serveMetrics(ctx context.Context, ln net.Listener) error {
	return web.Serve(ctx, ln, web.Config{Metrics: p.metrics, Ready: p.obstacles, Log: p.log.Logger})
}

func (p *serverProcess) metrics(page *metrics.Page) {
	page.Gauge("adit_build_info", "What is running: 1.", metrics.Sample{Labels: metrics.Labels{{"version", version()}, {"goversion", runtime.Version()}}, Value: 1})
	p.server.Metrics(page)
	p.exit.Load().Metrics(page)
	page.Process(p.since)
}

// obstacles are what keeps the server from serving whoever comes now.
func (p *serverProcess) obstacles(ctx context.Context) (all []string) {
	switch {
	case p.draining.Load():
		all = append(all, "it is stopping")
	case !p.serving.Load():
		all = append(all, "it is starting")
	}
	// Nobody has this key.
	if _, _, err := p.store.Lookup(ctx, make(ed25519.PublicKey, ed25519.PublicKeySize)); !errors.Is(err, users.ErrDeviceUnknown) {
		all = append(all, "the store of users gives no answer")
	}
	if p.asks.Failing() != nil {
		all = append(all, "the decider does not answer")
	}
	if p.audit != nil && p.audit.Stats().Refusal != nil {
		all = append(all, "nothing can be recorded")
	}
	return all
}
