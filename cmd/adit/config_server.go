package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
)

// serverConfig is server.toml.
type serverConfig struct {
	Listen []string `toml:"listen"`
	MPTCP  bool     `toml:"mptcp"`

	RequireIPsec bool `toml:"require_ipsec"`

	Congestion congestion `toml:"congestion"` // of carriers

	Name  string     `toml:"name"`
	Allow []string   `toml:"allow"`
	Drain duration   `toml:"drain"`
	Grace duration   `toml:"grace"`
	Site  siteConfig `toml:"site"`
	TLS   tlsConfig  `toml:"tls"`

	WireGuard wireGuardConfig `toml:"wireguard"`

	Policy    policyConfig       `toml:"policy"`
	Doors     []serverDoorConfig `toml:"door"`
	Login     loginConfig        `toml:"login"`
	Bind      bindConfig         `toml:"bind"`
	Exit      exitConfig         `toml:"exit"`
	UDP       udpConfig          `toml:"udp"`
	DNS       dnsConfig          `toml:"dns"`
	Bandwidth bandwidthConfig    `toml:"bandwidth"`
	Decider   deciderConfig      `toml:"decider"`
	Audit     auditConfig        `toml:"audit"`
	IPsec     serverIPsecConfig  `toml:"ipsec"`
	Metrics   metricsConfig      `toml:"metrics"`
	Limits    limitsConfig       `toml:"limits"`
	Log       logConfig          `toml:"log"`
}

// siteConfig says what the server shows to whoever is no adit device: a
// built-in page if all is empty.
type siteConfig struct {
	Dir   string `toml:"dir"`
	Proxy string `toml:"proxy"`
}

// builtIn tells whether the site is the page that adit brings along.
func (c siteConfig) builtIn() bool { return c == siteConfig{} }

// tlsConfig names the PEM files of a certificate that a public CA has issued.
// Without them devices know the server by its pinned key.
type tlsConfig struct {
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
}

// wireGuardConfig says where the server takes carriers over WireGuard, and guests.
type wireGuardConfig struct {
	Listen  string `toml:"listen"` // empty: nowhere
	MTU     int    `toml:"mtu"`
	Network string `toml:"network"` // of guests, IPv4
}

func (c wireGuardConfig) validate(report func(key, what, todo string)) {
	if what := badListen(c.Listen); c.Listen != "" && what != "" {
		report("wireguard.listen", what, `an address is ":51820" or "192.0.2.1:51820"`)
	}
	if _, port, err := net.SplitHostPort(c.Listen); err == nil && (port == "500" || port == "4500") {
		report("wireguard.listen", "UDP port "+port+" is IPsec's", `write listen = ":51820"`)
	}
	if c.MTU < 1280 || c.MTU > 9000 {
		report("wireguard.mtu", strconv.Itoa(c.MTU)+" is out of range", "write a number from 1280 to 9000")
	}
	if what := badNetwork(c.Network); what != "" {
		report("wireguard.network", strconv.Quote(c.Network)+" "+what, `write a part of 10.0.0.0/8 or another private network: "`+defaultNetwork+`"`)
	}
}

// defaultNetwork is one that few people have at home or at work.
const defaultNetwork = "10.83.0.0/16"

// badNetwork says why guests cannot have their addresses in a network, or "".
func badNetwork(text string) string {
	network, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !network.Addr().Is4():
		return "is no IPv4 network"
	case network != network.Masked():
		return "is no network, but an address in " + network.Masked().String()
	case network.Bits() > 30:
		return "has no room for a guest"
	}
	for _, private := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"} {
		if p := netip.MustParsePrefix(private); p.Contains(network.Addr()) && p.Bits() <= network.Bits() {
			return ""
		}
	}
	return "is not private"
}

type limitsConfig struct {
	Sessions          int `toml:"sessions"`
	StreamsPerSession int `toml:"streams_per_session"`
	StreamsPerUser    int `toml:"streams_per_user"`
	ReplayMemory      int `toml:"replay_memory_mib"` // MiB
}

func defaultServerConfig() serverConfig {
	return serverConfig{
		Listen:    []string{":443"},
		MPTCP:     true,
		Allow:     []string{},
		Drain:     duration{30 * time.Second},
		Grace:     duration{server.DefaultGrace},
		WireGuard: wireGuardConfig{MTU: 1420, Network: defaultNetwork},
		Policy:    policyConfig{Watch: true},
		Login:     defaultLoginConfig(),
		Bind:      defaultBindConfig(),
		UDP:       defaultUDPConfig(),
		DNS:       dnsConfig{Servers: []string{}},
		Decider:   defaultDeciderConfig(),
		Audit:     defaultAuditConfig(),
		IPsec:     defaultServerIPsecConfig(),
		Limits: limitsConfig{
			Sessions:          10_000,
			StreamsPerSession: tunnel.DefaultStreams,
			StreamsPerUser:    server.DefaultUserStreams,
			ReplayMemory:      server.DefaultReplayMemory >> 20,
		},
		Log: defaultLogConfig(),
	}
}

func (c *serverConfig) validate(report func(key, what, todo string)) {
	if len(c.Listen) == 0 {
		report("listen", "no address to listen on", `write listen = [":443"]`)
	}
	for _, address := range c.Listen {
		if what := badListen(address); what != "" {
			report("listen", what, `an address is ":443", "192.0.2.1:443" or "[2001:db8::1]:443"`)
		}
	}
	c.Congestion.validate("congestion", report)
	if c.Name != "" && badName(c.Name) {
		report("name", strconv.Quote(c.Name)+" is no host name and no IP address", "write the name that devices reach this server by; a port may follow it")
	}
	for _, kind := range c.Allow {
		if _, err := server.ParseAllow([]string{kind}); err != nil {
			report("allow", "unknown kind of target "+strconv.Quote(kind), "known are: loopback, private, link-local")
		}
	}
	c.Drain.validate("drain", report)
	c.Grace.validate("grace", report)
	if c.Grace.Duration > users.MaxGrace {
		report("grace", briefly(c.Grace.Duration)+" is out of range", `write a duration from "0s" to "`+briefly(users.MaxGrace)+`"`)
	}
	c.Site.validate(report)
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		report("tls", "cert and key go together", "name both files, or neither")
	}
	c.WireGuard.validate(report)
	validateDoors(c.Doors, report)
	c.Login.validate(report)
	c.Bind.validate(report)
	c.Exit.validate(report)
	c.UDP.validate(report)
	c.DNS.validate(report)
	c.Bandwidth.validate(report)
	c.Decider.validate(report)
	c.Audit.validate(report)
	c.IPsec.validate(report)
	if port := portIn(c.IPsec.Listen); port != "" && port != "0" && port == portIn(c.WireGuard.Listen) {
		report("ipsec.listen", "UDP port "+port+", which datagrams need here, is WireGuard's", "listen on another port")
	}
	c.Metrics.validate(report)
	c.Limits.validate(report)
	c.Log.validate(report)
}

func (c limitsConfig) validate(report func(key, what, todo string)) {
	limit := func(key string, n, least, most int) {
		if n < least || n > most {
			report(key, strconv.Itoa(n)+" is out of range", fmt.Sprintf("write a number from %d to %d", least, most))
		}
	}
	limit("limits.sessions", c.Sessions, 1, 1_000_000)
	limit("limits.streams_per_session", c.StreamsPerSession, 1, 1_000_000)
	limit("limits.streams_per_user", c.StreamsPerUser, 1, 1_000_000)
	limit("limits.replay_memory_mib", c.ReplayMemory, 16, 64<<10)
}

func (c siteConfig) validate(report func(key, what, todo string)) {
	if c.Dir != "" && c.Proxy != "" {
		report("site", "dir and proxy exclude each other", "keep one of them")
	}
	if c.Dir != "" {
		if info, err := os.Stat(c.Dir); err != nil || !info.IsDir() {
			report("site.dir", strconv.Quote(c.Dir)+" is no directory that adit can read", "make it, or correct the path")
		}
	}
	if c.Proxy != "" {
		u, err := url.Parse(c.Proxy)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			report("site.proxy", "not the URL of a web server", `write proxy = "http://127.0.0.1:8080"`)
		}
	}
}

// badListen says what is wrong with an address to listen on, or "".
func badListen(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return strconv.Quote(address) + " is not HOST:PORT"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return strconv.Quote(address) + ": the port is not a number from 0 to 65535"
	}
	if host != "" && badName(host) {
		return strconv.Quote(address) + ": the host is no name and no IP address"
	}
	return ""
}

// portIn is the port of an address to listen on; empty if that is none.
func portIn(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return port
}

// badName tells whether s is neither a host name nor an IP address, with or
// without a port.
func badName(s string) bool {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return true
		}
		host = h
	}
	if net.ParseIP(host) != nil {
		return false
	}
	return host == "" || len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

// reach gives the HOST:PORT that devices dial, and whether the config says it.
func (c *serverConfig) reach() (string, bool) {
	if c.Name == "" {
		return "", false
	}
	if _, _, err := net.SplitHostPort(c.Name); err == nil {
		return c.Name, true
	}
	_, port, err := net.SplitHostPort(c.Listen[0])
	return net.JoinHostPort(c.Name, port), err == nil && port != "0"
}

// briefly spells a duration as people do: 10m where Go says 10m0s.
func briefly(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
