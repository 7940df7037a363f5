package main

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/adit-net/adit/crypto/ipsec"
)

// ipsecConfig says what cannot be seen of the IPsec below.
type ipsecConfig struct {
	ProtectedNetworks []string `toml:"protected_networks"`
	VICI              string   `toml:"vici"` // empty: where charon has it
}

func defaultIPsecConfig() ipsecConfig { return ipsecConfig{ProtectedNetworks: []string{}} }

func (c ipsecConfig) validate(report func(key, what, todo string)) {
	for _, text := range c.ProtectedNetworks {
		if what := badPrefix(text); what != "" {
			report("ipsec.protected_networks", what, `write networks as "10.8.0.0/16"`)
		}
	}
	if c.VICI != "" && !filepath.IsAbs(c.VICI) {
		report("ipsec.vici", strconv.Quote(c.VICI)+" is no path from the root", `leave it empty, or write "/run/charon.vici"`)
	}
}

// serverIPsecConfig is the same for a server, with where it takes carriers, and how long apps
// at its doors wait.
type serverIPsecConfig struct {
	Listen            string   `toml:"listen"` // empty: nowhere
	ProtectedNetworks []string `toml:"protected_networks"`
	VICI              string   `toml:"vici"`
	Patience          duration `toml:"patience"`
}

func defaultServerIPsecConfig() serverIPsecConfig {
	return serverIPsecConfig{ProtectedNetworks: []string{}, Patience: duration{30 * time.Second}}
}

func (c serverIPsecConfig) validate(report func(key, what, todo string)) {
	c.below().validate(report)
	if what := badListen(c.Listen); c.Listen != "" && what != "" {
		report("ipsec.listen", what, `an address is ":8444" or "10.8.0.1:8444"`)
	}
	c.Patience.validate("ipsec.patience", report)
}

// addresses are where carriers over IPsec are taken.
func (c serverIPsecConfig) addresses() []string {
	if c.Listen == "" {
		return nil
	}
	return []string{c.Listen}
}

// below is what a server and a client have in common.
func (c serverIPsecConfig) below() ipsecConfig { return ipsecConfig{c.ProtectedNetworks, c.VICI} }

// detector looks as the config says, which is valid.
func (c ipsecConfig) detector() *ipsec.Detector {
	d := &ipsec.Detector{VICI: c.VICI}
	for _, text := range c.ProtectedNetworks {
		d.Networks = append(d.Networks, netip.MustParsePrefix(text))
	}
	return d
}
