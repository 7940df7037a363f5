package main

import (
	"net"
	"net/netip"
	"strconv"
)

// metricsConfig says where the server tells how it is doing. Nobody has to prove there who he
// is, so it is nowhere unless somebody has asked for it: on a machine with other users, loopback is
// theirs too.
type metricsConfig struct {
	Listen string `toml:"listen"` // empty: nowhere
}

func (c metricsConfig) validate(report func(key, what, todo string)) {
	if c.Listen == "" {
		return
	}
	what := badListen(c.Listen)
	host, _, err := net.SplitHostPort(c.Listen)
	if _, noAddress := netip.ParseAddr(host); err == nil && what == "" && noAddress != nil {
		what = strconv.Quote(c.Listen) + " names no address"
	}
	if what != "" {
		report("metrics.listen", what, `write one address and a port: "127.0.0.1:9464"`)
	}
}

// addresses are those to listen on.
func (c metricsConfig) addresses() []string {
	if c.Listen == "" {
		return nil
	}
	return []string{c.Listen}
}
