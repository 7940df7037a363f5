package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/tunnel/socks"
)

// dnsConfig says whom the exit asks for names.
type dnsConfig struct {
	Servers []string `toml:"servers"` // empty: those of the system
}

const dnsPort = 53 // where a server is whose port is not said

func (c dnsConfig) validate(report func(key, what, todo string)) {
	if len(c.Servers) > server.MaxUpstream {
		report("dns.servers", fmt.Sprintf("there are %d", len(c.Servers)), fmt.Sprintf("name %d at most", server.MaxUpstream))
	}
	var known []netip.AddrPort
	for _, text := range c.Servers {
		at, err := parseDNSServer(text)
		switch {
		case err != nil:
			report("dns.servers", strconv.Quote(text)+" is no address of a DNS server", `write IP addresses: "192.0.2.53", "192.0.2.53:5353" or "[2001:db8::53]:53"`)
		case slices.Contains(known, at):
			report("dns.servers", strconv.Quote(text)+" is named twice", "name each once, the one to ask first in front")
		}
		known = append(known, at)
	}
}

// upstream gives the servers. The config is valid.
func (c dnsConfig) upstream() (all []netip.AddrPort, err error) {
	for _, text := range c.Servers {
		at, err := parseDNSServer(text)
		if err != nil {
			return nil, err
		}
		all = append(all, at)
	}
	return all, nil
}

// parseDNSServer reads an IP address that a port may follow.
func parseDNSServer(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		var ip netip.Addr
		if ip, err = netip.ParseAddr(text); err != nil {
			return netip.AddrPort{}, err
		}
		at = netip.AddrPortFrom(ip, dnsPort)
	}
	if a := at.Addr(); a.IsUnspecified() || a.IsMulticast() || at.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("nobody is at %s", at)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// dns looks whether the servers that the config names answer.
func (k *checker) dns(ctx context.Context, cfg dnsConfig, way server.Steer) {
	servers, err := cfg.upstream()
	if err != nil {
		return // the config is wrong
	}
	for _, at := range servers {
		k.say("dns", at.String()+" answers", askForRoot(ctx, at, way))
	}
}

// askForRoot asks a DNS server who serves the root. Whatever it answers, it is there.
func askForRoot(ctx context.Context, at netip.AddrPort, way server.Steer) error {
	query, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		return fmt.Errorf("make DNS query: %w", err)
	}
	answer, err := (&server.Exit{Upstream: []netip.AddrPort{at}, Steer: way}).Exchange(ctx, socks.Request{}, query, true)
	if err != nil {
		return err
	}
	var p dnsmessage.Parser
	switch h, err := p.Start(answer); {
	case err != nil:
		return fmt.Errorf("read answer of %s: %w", at, err)
	case h.RCode == dnsmessage.RCodeServerFailure:
		return hint(errors.New(at.String()+" does not answer"), "correct dns.servers in server.toml, or remove it to ask those of the system")
	}
	return nil
}
