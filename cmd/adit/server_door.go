package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/adit-net/adit/crypto/gss"
	"github.com/adit-net/adit/server/door"
	"github.com/adit-net/adit/server/users"
)

// serverDoor is a door of the server's own while it is open.
type serverDoor struct {
	*door.Door
	cfg      serverDoorConfig
	listener net.Listener
	ended    chan struct{} // closed when the last app has gone
}

func anyRequiresIPsec(all []serverDoorConfig) bool {
	return slices.ContainsFunc(all, func(c serverDoorConfig) bool { return c.RequireIPsec })
}

func doorAddresses(all []serverDoorConfig) []string {
	addresses := make([]string, len(all))
	for i, c := range all {
		addresses[i] = c.Listen
	}
	return addresses
}

// openDoors makes the doors that the config describes, at the listeners there are.
func (p *serverProcess) openDoors() error {
	for i, ln := range p.doorListeners {
		c := p.cfg.Doors[i]
		cfg, err := c.config(p.dir, p.cert.get)
		if err != nil {
			return fmt.Errorf("open door on %s: %w", c.Listen, err)
		}
		cfg.Name, cfg.Server, cfg.Users, cfg.Log = c.Listen, p.server, p.store, p.log.Logger
		cfg.Below, cfg.Peer = p.belowDoor, p.peerOf
		if c.RequireIPsec {
			cfg.Below, ln = p.belowGuardedDoor(p.cfg.IPsec.Patience.Duration), p.guard(ln)
		}
		p.doors = append(p.doors, &serverDoor{door.New(cfg), c, ln, make(chan struct{})})
	}
	return nil
}

// serve lets apps in until ctx ends or the listener is closed, and then until the last
// app has gone.
func (d *serverDoor) serve(ctx context.Context) error {
	defer close(d.ended)
	return d.Serve(ctx, d.listener)
}

// drainDoors lets nobody in any more, and waits until all have gone or ctx ends.
func (p *serverProcess) drainDoors(ctx context.Context) {
	closeAll(p.doorListeners)
	for _, d := range p.doors {
		select {
		case <-d.ended:
		case <-ctx.Done():
			p.log.Warn("apps at a door are cut off", "door", d.listener.Addr(), "apps", d.Apps())
		}
	}
}

// config reads what a door needs. Relative names are those of files in the server's
// directory.
func (c serverDoorConfig) config(dir string, own func(*tls.ClientHelloInfo) (*tls.Certificate, error)) (door.Config, error) {
	cfg := door.Config{UDP: c.UDP, NEC: c.NEC, Identities: c.Identities, Names: door.Names{Users: c.CertificateUsers}}
	for _, m := range c.Methods {
		cfg.Methods = append(cfg.Methods, door.Method(m))
	}
	for _, text := range c.From {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return cfg, err
		}
		cfg.From = append(cfg.From, p)
	}
	var err error
	if cfg.Networks, err = parseNetworks(c.Networks); err != nil {
		return cfg, err
	}
	if c.CertificateName != "" {
		if err := cfg.Names.Field.UnmarshalText([]byte(c.CertificateName)); err != nil {
			return cfg, err
		}
	}
	if c.Protection != "" {
		if err := cfg.Protection.UnmarshalText([]byte(c.Protection)); err != nil {
			return cfg, err
		}
	}
	if c.tls() {
		if cfg.TLS, err = c.tlsConfig(dir, own); err != nil {
			return cfg, err
		}
	}
	if c.Keytab != "" {
		cfg.Accept, err = c.acceptor(dir)
	}
	return cfg, err
}

func parseNetworks(texts map[string]string) (map[netip.Prefix]string, error) {
	all := make(map[netip.Prefix]string, len(texts))
	for text, user := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		all[p] = user
	}
	return all, nil
}

func (c serverDoorConfig) tlsConfig(dir string, own func(*tls.ClientHelloInfo) (*tls.Certificate, error)) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: own}
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(within(dir, c.Cert), within(dir, c.Key))
		if err != nil {
			return nil, hint(fmt.Errorf("load certificate: %w", err), "cert and key of the door name PEM files that belong together")
		}
		t.Certificates, t.GetCertificate = []tls.Certificate{cert}, nil
	}
	if c.ClientCA == "" {
		return t, nil
	}
	pool, err := readCA(within(dir, c.ClientCA))
	if err != nil {
		return nil, fmt.Errorf("read client_ca: %w", err)
	}
	t.ClientCAs, t.ClientAuth = pool, tls.VerifyClientCertIfGiven
	t.SessionTicketsDisabled = true // every app shows its certificate, which may have expired
	return t, nil
}

func (c serverDoorConfig) acceptor(dir string) (func(token []byte) (door.Context, []byte, error), error) {
	a, err := newAcceptor(dir, c.Keytab, c.Services, c.Realms)
	if err != nil {
		return nil, err
	}
	return func(token []byte) (door.Context, []byte, error) {
		context, reply, err := a.Accept(token)
		if err != nil {
			return nil, nil, err
		}
		return context, reply, nil
	}, nil
}

// newAcceptor reads a keytab.
func newAcceptor(dir, keytab string, services, realms []string) (*gss.Acceptor, error) {
	path := within(dir, keytab)
	if err := checkFile(path); err != nil {
		return nil, fmt.Errorf("read keytab: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read keytab: %w", err)
	}
	a, err := gss.NewAcceptor(gss.Config{Keytab: text, Services: services, Realms: realms})
	return a, hint(err, "klist -k -e shows what is in it; adit needs AES keys of the services that apps ask for")
}

// within makes a relative name one in a directory.
func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// doors looks whether a server's doors could open, and whether apps at others could log in.
func (k *checker) doors(ctx context.Context, dir string, cfg serverConfig, running bool) {
	if cfg.Login.Keytab != "" {
		_, err := cfg.Login.login(dir)
		k.say("login", "by "+strings.Join(cfg.Login.Methods, ", "), err)
	}
	for _, c := range cfg.Doors {
		_, err := c.config(dir, nil)
		named := slices.Sorted(maps.Values(c.Networks))
		named = slices.AppendSeq(named, maps.Values(c.CertificateUsers))
		named = slices.AppendSeq(named, maps.Values(c.Identities))
		k.say("door", c.Listen+" "+c.path()+" by "+strings.Join(c.Methods, ", "), errors.Join(err, checkUsers(ctx, dir, named)))
		k.port(ctx, c.Listen, running)
	}
}

// checkUsers tells whether there are all of some users.
func checkUsers(ctx context.Context, dir string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	store, err := users.Open(ctx, filepath.Join(dir, storeFile))
	if err != nil {
		return nil // there is a line for that already
	}
	defer store.Close() // reading only: nothing to lose
	var all []error
	for _, name := range names {
		if _, err := store.User(ctx, name); err != nil {
			all = append(all, userHint(err, name))
		}
	}
	return errors.Join(all...)
}

// path says what protects the way to a door.
func (c serverDoorConfig) path() string {
	switch {
	case c.tls():
		return "over TLS"
	case c.RequireIPsec:
		return "over IPsec"
	case c.Plain == plainProtected:
		return "over a path that is protected below"
	}
	return "on this machine"
}

// reportDoors gives what adit status says of doors.
func reportDoors(all []*serverDoor) []serverDoorReport {
	reports := make([]serverDoorReport, len(all))
	for i, d := range all {
		reports[i] = serverDoorReport{Listen: d.listener.Addr().String(), TLS: d.cfg.tls(), Methods: d.cfg.Methods, Apps: d.Apps()}
	}
	return reports
}
