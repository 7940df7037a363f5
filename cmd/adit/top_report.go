package main

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/adit-net/adit/server"
)

// maxTopFlows bounds how many flows the answer to GET /top has, which is then some 4 MiB long.
const maxTopFlows = 10_000

// topReport is what a running server answers to GET /top. What it counts it counts since it began;
// whoever asks twice knows what has passed between.
type topReport struct {
	Version  string          `json:"version"`
	Since    time.Time       `json:"since"`
	At       time.Time       `json:"at"`
	Totals   totalsReport    `json:"totals"`
	Sessions []sessionReport `json:"sessions"`
	Guests   []guestReport   `json:"guests"`
	Flows    []flowReport    `json:"flows"` // no more than maxTopFlows, those with the most bytes
	Refusals []refusalReport `json:"refusals"`
}

// totalsReport says what a server has done since it began.
type totalsReport struct {
	Up      int64 `json:"up"`   // bytes
	Down    int64 `json:"down"` // bytes
	Open    int   `json:"open"` // flows
	Allowed int64 `json:"allowed"`
	Refused int64 `json:"refused"`
	Failed  int64 `json:"failed"`
	Denied  int64 `json:"denied"` // logins
}

type flowReport struct {
	ID       int64     `json:"id"`
	User     string    `json:"user"`
	Device   string    `json:"device"`
	Source   string    `json:"source"`
	Dialect  string    `json:"dialect"`
	Command  string    `json:"command"`
	Target   string    `json:"target"`
	Address  string    `json:"address"`
	Protocol string    `json:"protocol"`
	Host     string    `json:"host"`
	Rule     string    `json:"rule"`
	Since    time.Time `json:"since"`
	Up       int64     `json:"up"`
	Down     int64     `json:"down"`
}

type refusalReport struct {
	Time    time.Time `json:"time"`
	User    string    `json:"user"`
	Source  string    `json:"source"`
	Command string    `json:"command"`
	Target  string    `json:"target"`
	Why     string    `json:"why"`
	Times   int       `json:"times"`
}

func (p *serverProcess) answerTop(w http.ResponseWriter, _ *http.Request) {
	flows, _ := p.server.Flows(maxTopFlows)
	r := topReport{
		Version:  version(),
		Since:    p.since,
		At:       time.Now(),
		Totals:   totalsReport(p.server.Totals()),
		Sessions: reportSessions(p.server.Status()),
	}
	if p.wireGuard.host != nil {
		r.Guests = reportGuests(p.wireGuard.host.guests.Here())
	}
	for _, f := range flows {
		r.Flows = append(r.Flows, reportFlow(f))
	}
	for _, x := range p.server.Refusals() {
		r.Refusals = append(r.Refusals, refusalReport{
			Time: x.Time, User: x.User, Source: addrText(x.Source), Command: x.Command, Target: x.Target, Why: x.Why, Times: x.Times,
		})
	}
	reply(w, r)
}

func reportFlow(f server.FlowStatus) flowReport {
	r := flowReport{
		ID:       f.ID,
		User:     f.User,
		Device:   f.Device,
		Source:   addrText(f.Source.Addr()),
		Dialect:  f.Dialect,
		Command:  f.Command,
		Target:   f.Target,
		Protocol: f.Protocol,
		Host:     f.Host,
		Rule:     f.Rule,
		Since:    f.Since,
		Up:       f.Up,
		Down:     f.Down,
	}
	if f.Address.Addr().IsValid() {
		r.Address = f.Address.String()
	}
	return r
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
