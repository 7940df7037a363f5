package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/adit-net/adit/server"
)

// udpConfig says what the exit's associations take, and how many there may be.
type udpConfig struct {
	Filtering    string   `toml:"filtering"`
	Associations int      `toml:"associations"` // of all users together
	Idle         duration `toml:"idle"`         // "0s": as long as the app stays
}

func defaultUDPConfig() udpConfig {
	return udpConfig{
		Filtering:    server.EndpointIndependent.String(),
		Associations: server.DefaultAssociations,
	}
}

const (
	mostAssociations = 60_000          // each takes a port
	shortestIdle     = 2 * time.Minute // RFC 4787 section 4.3
)

func (c udpConfig) validate(report func(key, what, todo string)) {
	if _, err := server.ParseFiltering(c.Filtering); err != nil {
		report("udp.filtering", strconv.Quote(c.Filtering)+" is no kind of filtering",
			"known are: endpoint-independent, address-dependent, address-and-port-dependent")
	}
	if c.Associations < 1 || c.Associations > mostAssociations {
		report("udp.associations", strconv.Itoa(c.Associations)+" is out of range", fmt.Sprintf("write a number from 1 to %d", mostAssociations))
	}
	if c.Idle.Duration != 0 && c.Idle.Duration < shortestIdle {
		report("udp.idle", briefly(c.Idle.Duration)+" is too short", `write "`+briefly(shortestIdle)+`" or more, or "0s" for as long as the app stays`)
	}
}

// set tells an exit what the config says.
func (c udpConfig) set(e *server.Exit) (err error) {
	e.Associations, e.AssociationIdle = c.Associations, c.Idle.Duration
	e.Filtering, err = server.ParseFiltering(c.Filtering)
	return err
}
