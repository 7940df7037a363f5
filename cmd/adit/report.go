package main

import (
	"cmp"
	"os"
	"strings"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/guest"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
)

// report is what a running process answers to GET /status, and what "adit
// status --json" prints. Scripts read it: fields may come, but none go.
type report struct {
	Role    string        `json:"role"` // "server" or "client"
	Version string        `json:"version"`
	PID     int           `json:"pid"`
	Since   time.Time     `json:"since"`
	Server  *serverReport `json:"server,omitempty"`
	Client  *clientReport `json:"client,omitempty"`
}

type serverReport struct {
	Listen   []string           `json:"listen"`
	Metrics  string             `json:"metrics,omitempty"` // where they are
	Audit    string             `json:"audit,omitempty"`   // why nothing can be recorded
	Decider  string             `json:"decider,omitempty"` // why it is taken for dead
	Totals   totalsReport       `json:"totals"`
	Sessions []sessionReport    `json:"sessions"`         // the oldest first
	Guests   []guestReport      `json:"guests,omitempty"` // the same
	Doors    []serverDoorReport `json:"doors,omitempty"`  // of the server's own
	Older    []elderReport      `json:"older,omitempty"`  // processes that this one has replaced, the oldest first
}

// serverDoorReport says who may come in at a door of the server's own, and how many have.
type serverDoorReport struct {
	Listen  string   `json:"listen"`
	TLS     bool     `json:"tls"`
	Methods []string `json:"methods"`
	Apps    int      `json:"apps"` // that are in
}

// elderReport says what a process still holds after another one has taken over.
type elderReport struct {
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Since    time.Time `json:"since"`
	Sessions int       `json:"sessions"`
	Streams  int       `json:"streams"`
}

type sessionReport struct {
	ID          string           `json:"id"`
	User        string           `json:"user"`
	Device      string           `json:"device"`
	DeviceID    string           `json:"device_id"`
	Remote      string           `json:"remote"`
	Since       time.Time        `json:"since"`
	Lanes       int              `json:"lanes"`
	Carriers    int              `json:"carriers"`          // lanes that have one
	Detached    time.Time        `json:"detached,omitzero"` // since when it waits for a carrier
	Lost        string           `json:"lost,omitempty"`    // why
	Resumes     int              `json:"resumes"`           // how often it went on with another carrier
	Replayed    int64            `json:"replayed"`          // bytes that were sent again because of that
	Streams     int              `json:"streams"`           // open now
	Opened      uint64           `json:"opened"`
	Up          int64            `json:"up"`   // bytes
	Down        int64            `json:"down"` // bytes
	RoundTripMs float64          `json:"round_trip_ms"`
	Protection  protectionReport `json:"protection"`
}

// guestReport says what a device does that runs no adit.
type guestReport struct {
	User     string    `json:"user"`
	Device   string    `json:"device"`
	DeviceID string    `json:"device_id"`
	Address  string    `json:"address"` // inside WireGuard, IPv4
	Remote   string    `json:"remote"`
	Since    time.Time `json:"since"`
	Flows    int       `json:"flows"` // open now
	Opened   uint64    `json:"opened"`
	Up       int64     `json:"up"`   // bytes
	Down     int64     `json:"down"` // bytes
}

type clientReport struct {
	Server      string           `json:"server"`
	Connected   bool             `json:"connected"`
	Detached    bool             `json:"detached"` // there is a session, and it waits for a carrier
	Changed     time.Time        `json:"changed"`  // when it connected, or lost the connection
	Error       string           `json:"error,omitempty"`
	Retry       time.Time        `json:"retry,omitzero"`
	Lanes       int              `json:"lanes"`                         // that the session should have
	LanesAway   int              `json:"lanes_detached"`                // and how many of them have no carrier
	AwaySince   time.Time        `json:"lanes_detached_since,omitzero"` // the first of those
	Resumes     int              `json:"resumes"`                       // how often the session went on with another carrier
	Replayed    int64            `json:"replayed"`                      // bytes that were sent again because of that
	Passed      string           `json:"passed,omitempty"`              // why no better carrier is in use
	Streams     int              `json:"streams"`
	Opened      uint64           `json:"opened"`
	Up          int64            `json:"up"`   // bytes
	Down        int64            `json:"down"` // bytes
	RoundTripMs float64          `json:"round_trip_ms"`
	Protection  protectionReport `json:"protection"`
	Door        doorReport       `json:"door"`
}

type protectionReport struct {
	Carrier     string `json:"carrier"`
	Version     string `json:"version"`
	Cipher      string `json:"cipher"`
	KeyExchange string `json:"key_exchange"`
	Fingerprint string `json:"fingerprint,omitempty"`
	IPsec       string `json:"ipsec,omitempty"` // what protects the path below the carrier: "aes-gcm-128"
}

// doorReport tells other commands of the same user how to come in.
type doorReport struct {
	Listen       string `json:"listen,omitempty"`
	Socket       string `json:"socket,omitempty"`
	Admission    string `json:"admission"`
	User         string `json:"user,omitempty"`
	PasswordFile string `json:"password_file,omitempty"`
}

func newReport(role string, since time.Time) report {
	return report{Role: role, Version: version(), PID: os.Getpid(), Since: since}
}

func reportElder(r report) elderReport {
	e := elderReport{PID: r.PID, Version: r.Version, Since: r.Since, Sessions: len(r.Server.Sessions)}
	for _, s := range r.Server.Sessions {
		e.Streams += s.Streams
	}
	return e
}

func reportSessions(all []server.Status) []sessionReport {
	sessions := make([]sessionReport, len(all))
	for i, s := range all {
		sessions[i] = sessionReport{
			ID:          s.ID,
			User:        s.User,
			Device:      s.Device,
			DeviceID:    users.Device{Key: s.Key}.ID().String(),
			Remote:      s.Remote.String(),
			Since:       s.Since,
			Lanes:       s.Lanes,
			Carriers:    s.Carriers,
			Detached:    s.Detached,
			Lost:        s.Lost,
			Resumes:     s.Resumes,
			Replayed:    s.Replayed,
			Streams:     s.Streams,
			Opened:      s.Opened,
			Up:          s.Up,
			Down:        s.Down,
			RoundTripMs: millis(s.RoundTrip),
			Protection:  reportProtection(s.Protection, s.Below),
		}
	}
	return sessions
}

func reportGuests(all []guest.Guest) []guestReport {
	guests := make([]guestReport, len(all))
	for i, g := range all {
		guests[i] = guestReport{
			User:     g.Device.User,
			Device:   g.Device.Name,
			DeviceID: g.Device.ID().String(),
			Address:  g.Device.Address.String(),
			Remote:   g.Remote.String(),
			Since:    g.Since,
			Flows:    g.Usage.Flows,
			Opened:   g.Usage.Opened,
			Up:       g.Usage.Up,
			Down:     g.Usage.Down,
		}
	}
	return guests
}

func reportClient(address string, s client.Status, below []string, door doorReport) *clientReport {
	return &clientReport{
		Server:      address,
		Connected:   s.Connected,
		Detached:    s.Detached,
		Changed:     s.Since,
		Error:       s.Error,
		Retry:       s.Retry,
		Lanes:       s.Lanes,
		LanesAway:   s.Away,
		AwaySince:   s.AwaySince,
		Resumes:     s.Resumes,
		Passed:      s.Passed,
		Replayed:    s.Replayed,
		Streams:     s.Streams,
		Opened:      s.Opened,
		Up:          s.Up,
		Down:        s.Down,
		RoundTripMs: millis(s.RoundTrip),
		Protection:  reportProtection(s.Protection, below),
		Door:        door,
	}
}

func reportProtection(p tunnel.Protection, below []string) protectionReport {
	return protectionReport{
		Carrier: p.Carrier, Version: p.Version, Cipher: p.Cipher, KeyExchange: p.KeyExchange, Fingerprint: p.Fingerprint,
		IPsec: ipsecOf(below),
	}
}

// ipsecOf says how IPsec protects a path of which there are words; empty if it does not.
func ipsecOf(words []string) string {
	for _, word := range words {
		if suite, of := strings.CutPrefix(word, "ipsec"); of {
			return cmp.Or(strings.TrimPrefix(suite, ":"), "yes")
		}
	}
	return ""
}

// of is the carrier's part.
func (p protectionReport) of() tunnel.Protection {
	return tunnel.Protection{Carrier: p.Carrier, Version: p.Version, Cipher: p.Cipher, KeyExchange: p.KeyExchange, Fingerprint: p.Fingerprint}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
