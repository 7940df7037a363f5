package main

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/adit-net/adit/server"
)

func TestBindConfigSaysWhatIsWrong(t *testing.T) {
	checkSection(t, "bind", map[string]string{
		`ports = "40000-40999"`:                      "",
		`ports = "21"`:                               "",
		`ports = "40999-40000"`:                      `bind.ports: "40999-40000" is no range of ports | write the first and the last: "40000-40999"`,
		`ports = "all"`:                              `bind.ports: "all" is no range of ports | write the first and the last: "40000-40999"`,
		`advertise = ["203.0.113.1", "2001:db8::1"]`: "",
		`advertise = ["vpn.example.org"]`:            `bind.advertise: "vpn.example.org" is no address that a peer could reach | write what the outside sees: "203.0.113.1"`,
		`advertise = ["0.0.0.0"]`:                    `bind.advertise: "0.0.0.0" is no address that a peer could reach | write what the outside sees: "203.0.113.1"`,
		`advertise = ["203.0.113.1", "203.0.113.2"]`: `bind.advertise: 203.0.113.2 is the second address of its family | keep one IPv4 and one IPv6 address at most`,
		`lifetime = "1s"`:                            "",
		`lifetime = "0s"`:                            `bind.lifetime: 0s is out of range | write a duration from "1s" to "1h"`,
		`lifetime = "2h"`:                            `bind.lifetime: 2h is out of range | write a duration from "1s" to "1h"`,
		`per_user = 1`:                               "",
		`per_user = 0`:                               `bind.per_user: 0 is out of range | write a number from 1 to 10000`,
		`per_user = 10001`:                           `bind.per_user: 10001 is out of range | write a number from 1 to 10000`,
	})
}

func TestExitBindsAsTheConfigSays(t *testing.T) {
	c := bindConfig{Ports: "40000-40999", Advertise: []string{"203.0.113.1"}, Lifetime: duration{time.Minute}}
	want := server.Binds{
		Ports:     server.Ports{First: 40000, Last: 40999},
		Advertise: []netip.Addr{netip.MustParseAddr("203.0.113.1")},
		Lifetime:  time.Minute,
	}
	if got, err := c.binds(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got, err := defaultBindConfig().binds(); err != nil || !reflect.DeepEqual(got, server.Binds{Lifetime: server.DefaultBindLifetime}) {
		t.Errorf("by default %+v, %v", got, err)
	}
}
