package main

import (
	"context"
	"reflect"
	"slices"

	"github.com/adit-net/adit/server"
)

// reload takes over what can change while the server runs, and leaves a record of it. It
// is not called concurrently.
func (p *serverProcess) reload() error {
	err := p.reread()
	if err != nil {
		p.note("a new configuration was refused: " + err.Error())
	} else {
		p.note("the configuration was read again")
	}
	return err
}

func (p *serverProcess) reread() error {
	cfg := defaultServerConfig()
	if err := p.load(&cfg); err != nil {
		return err
	}
	for key, same := range map[string]bool{
		"listen":        slices.Equal(cfg.Listen, p.cfg.Listen),
		"mptcp":         cfg.MPTCP == p.cfg.MPTCP,
		"congestion":    cfg.Congestion == p.cfg.Congestion,
		"require_ipsec": cfg.RequireIPsec == p.cfg.RequireIPsec,
		"limits":        cfg.Limits == p.cfg.Limits,
		"wireguard":     cfg.WireGuard == p.cfg.WireGuard,
		"site":          cfg.Site.builtIn() == p.cfg.Site.builtIn(),
		"door":          reflect.DeepEqual(cfg.Doors, p.cfg.Doors),
		"audit":         cfg.Audit == p.cfg.Audit,
		"ipsec":         reflect.DeepEqual(cfg.IPsec, p.cfg.IPsec),
		"metrics":       cfg.Metrics == p.cfg.Metrics,
		"login":         reflect.DeepEqual(cfg.Login, p.cfg.Login),
		"bind.per_user": cfg.Bind.PerUser == p.cfg.Bind.PerUser,
		"log.format":    cfg.Log.Format == p.cfg.Log.Format,
	} {
		if !same {
			p.log.Warn("this change needs a restart", "key", key)
		}
	}
	cfg.Listen, cfg.MPTCP, cfg.Limits, cfg.WireGuard, cfg.Log.Format = p.cfg.Listen, p.cfg.MPTCP, p.cfg.Limits, p.cfg.WireGuard, p.cfg.Log.Format
	cfg.Bind.PerUser, cfg.Doors, cfg.Login, cfg.Audit, cfg.IPsec = p.cfg.Bind.PerUser, p.cfg.Doors, p.cfg.Login, p.cfg.Audit, p.cfg.IPsec
	cfg.Metrics, cfg.RequireIPsec, cfg.Congestion = p.cfg.Metrics, p.cfg.RequireIPsec, p.cfg.Congestion
	if cfg.Site.builtIn() != p.cfg.Site.builtIn() {
		cfg.Site = p.cfg.Site
	}
	if err := p.apply(cfg); err != nil {
		return err
	}
	if p.rules.any() {
		p.tellElders(context.Background())
	}
	return nil
}

// apply makes a config the one that new connections go by. If it fails, all is
// as it was.
func (p *serverProcess) apply(cfg serverConfig) error {
	p.rules.changing.Lock()
	defer p.rules.changing.Unlock()
	allow, err := server.ParseAllow(cfg.Allow)
	if err != nil {
		return err
	}
	binds, err := cfg.Bind.binds()
	if err != nil {
		return err
	}
	upstream, err := cfg.DNS.upstream()
	if err != nil {
		return err
	}
	exit := &server.Exit{
		Allow:    allow,
		Own:      slices.Concat(ownPorts(p.allListeners()), p.own, p.wireGuard.own()),
		Binds:    binds,
		Upstream: upstream,
		Steer:    cfg.Exit.steer(),
	}
	if err := cfg.Exit.try(); err != nil {
		return err
	}
	if before := p.exit.Load(); before != nil {
		exit.Follow(before)
	}
	if err := cfg.UDP.set(exit); err != nil {
		return err
	}
	rules, err := p.rules.read(cfg.Policy)
	if err != nil {
		return err
	}
	decider, err := cfg.Decider.config(p.dir)
	if err != nil {
		return err
	}
	cert, err := loadCertificate(cfg, p.dir, p.key)
	if err != nil {
		return err
	}
	site, err := newSite(cfg.Site, p.log.Logger)
	if err != nil {
		return err
	}
	p.cert.Store(cert)
	p.site.set(site)
	p.exit.Store(exit)
	p.log.set(cfg.Log)
	p.asks.Set(decider)
	p.rules.set(rules, p.server) // all that is open is judged anew
	if p.server != nil {
		p.server.SetGrace(graceOf(cfg))
		p.server.SetBandwidth(cfg.Bandwidth.bandwidth())
	}
	p.cfg = cfg
	return nil
}
