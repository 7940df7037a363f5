package main

import (
	"net/netip"
	"slices"
	"testing"
)

func TestDNSConfigSaysWhatIsWrong(t *testing.T) {
	const todo = ` is no address of a DNS server | write IP addresses: "192.0.2.53", "192.0.2.53:5353" or "[2001:db8::53]:53"`
	checkSection(t, "dns", map[string]string{
		`servers = []`: "",
		`servers = ["192.0.2.53:53", "192.0.2.54", "[2001:db8::53]:5353"]`: "",
		`servers = ["fe80::1%eth0"]`:                                       "",
		`servers = ["dns.example.org"]`:                                    `dns.servers: "dns.example.org"` + todo,
		`servers = ["192.0.2.53:0"]`:                                       `dns.servers: "192.0.2.53:0"` + todo,
		`servers = ["192.0.2.53:domain"]`:                                  `dns.servers: "192.0.2.53:domain"` + todo,
		`servers = ["0.0.0.0"]`:                                            `dns.servers: "0.0.0.0"` + todo,
		`servers = ["[ff02::fb]:5353"]`:                                    `dns.servers: "[ff02::fb]:5353"` + todo,
		`servers = [""]`:                                                   `dns.servers: ""` + todo,
		`servers = ["192.0.2.1", "192.0.2.1"]`:                             `dns.servers: "192.0.2.1" is named twice | name each once, the one to ask first in front`,
		`servers = ["1.1.1.1", "1.1.1.1:53"]`:                              `dns.servers: "1.1.1.1:53" is named twice | name each once, the one to ask first in front`,
		`servers = ["::1", "::2", "::3", "::4"]`:                           `dns.servers: there are 4 | name 3 at most`,
	})
}

func TestExitAsksTheServersOfTheConfig(t *testing.T) {
	c := dnsConfig{Servers: []string{"192.0.2.54", "[::ffff:192.0.2.53]:5353", "2001:db8::53"}}
	want := []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.54:53"), netip.MustParseAddrPort("192.0.2.53:5353"), netip.MustParseAddrPort("[2001:db8::53]:53"),
	}
	if got, err := c.upstream(); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := defaultServerConfig().DNS.upstream(); err != nil || got != nil {
		t.Errorf("by default %v, %v", got, err)
	}
}
