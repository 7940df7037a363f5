package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/adit-net/adit/server"
)

// bindConfig says at which ports the exit lets peers come in.
type bindConfig struct {
	Ports     string   `toml:"ports"`     // empty: any
	Advertise []string `toml:"advertise"` // empty: the host's own
	Lifetime  duration `toml:"lifetime"`
	PerUser   int      `toml:"per_user"`
}

func defaultBindConfig() bindConfig {
	return bindConfig{
		Advertise: []string{},
		Lifetime:  duration{server.DefaultBindLifetime},
		PerUser:   server.DefaultUserBinds,
	}
}

const (
	shortestBind = time.Second
	longestBind  = time.Hour
	mostBinds    = 10_000
)

func (c bindConfig) validate(report func(key, what, todo string)) {
	if _, err := server.ParsePorts(c.Ports); err != nil {
		report("bind.ports", strconv.Quote(c.Ports)+" is no range of ports", `write the first and the last: "40000-40999"`)
	}
	var known [2]bool
	for _, text := range c.Advertise {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			report("bind.advertise", strconv.Quote(text)+" is no address that a peer could reach", `write what the outside sees: "203.0.113.1"`)
			continue
		}
		family := 0
		if a.Unmap().Is6() {
			family = 1
		}
		if known[family] {
			report("bind.advertise", text+" is the second address of its family", "keep one IPv4 and one IPv6 address at most")
		}
		known[family] = true
	}
	if c.Lifetime.Duration < shortestBind || c.Lifetime.Duration > longestBind {
		report("bind.lifetime", briefly(c.Lifetime.Duration)+" is out of range", `write a duration from "1s" to "`+briefly(longestBind)+`"`)
	}
	if c.PerUser < 1 || c.PerUser > mostBinds {
		report("bind.per_user", strconv.Itoa(c.PerUser)+" is out of range", fmt.Sprintf("write a number from 1 to %d", mostBinds))
	}
}

// binds is what the config says, for the exit. The config is valid.
func (c bindConfig) binds() (server.Binds, error) {
	ports, err := server.ParsePorts(c.Ports)
	if err != nil {
		return server.Binds{}, err
	}
	b := server.Binds{Ports: ports, Lifetime: c.Lifetime.Duration}
	for _, text := range c.Advertise {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return server.Binds{}, err
		}
		b.Advertise = append(b.Advertise, a)
	}
	return b, nil
}
