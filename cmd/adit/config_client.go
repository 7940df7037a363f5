package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/tunnel"
)

// clientConfig is client.toml.
type clientConfig struct {
	Drain  duration     `toml:"drain"`
	Lanes  int          `toml:"lanes"`
	Server remoteConfig `toml:"server"`
	Door   doorConfig   `toml:"door"`
	IPsec  ipsecConfig  `toml:"ipsec"`
	Log    logConfig    `toml:"log"`
}

// remoteConfig says where the server is and how to know it: by its pinned key,
// or by a public CA.
type remoteConfig struct {
	Address     string `toml:"address"`
	Name        string `toml:"name"`
	Pin         string `toml:"pin"`
	CA          bool   `toml:"ca"`
	Fingerprint string `toml:"fingerprint"`
	MPTCP       bool   `toml:"mptcp"`

	RequireIPsec bool `toml:"require_ipsec"`

	Mark      uint32 `toml:"mark"`      // of packets to the server; 0: none
	Interface string `toml:"interface"` // by which they go; empty: as routes say

	Congestion congestion `toml:"congestion"`

	Carriers         []string `toml:"carriers"`
	WireGuardKey     string   `toml:"wireguard_key"`
	WireGuardAddress string   `toml:"wireguard_address"`
	IPsecAddress     string   `toml:"ipsec_address"` // empty: where the server says
	IPsecPin         string   `toml:"ipsec_pin"`     // empty: Pin
}

// doorConfig says where apps come in, and which.
type doorConfig struct {
	Listen       string `toml:"listen"`
	Socket       string `toml:"socket"`
	Admission    string `toml:"admission"`
	User         string `toml:"user"`
	PasswordFile string `toml:"password_file"`

	EarlyReply []uint16 `toml:"early_reply"` // ports of targets
}

// The values of door.admission.
const (
	admitAuto     = "auto"      // sameUser where the system can tell, else password
	admitSameUser = "same-user" // processes of the user who runs the client
	admitPassword = "password"
	admitAnyone   = "anyone"
	admitExit     = "exit" // users of the server, who prove it there
)

func admissions() []string {
	return []string{admitAuto, admitSameUser, admitPassword, admitAnyone, admitExit}
}

func fingerprints() []string { return []string{"chrome", "firefox", "safari", "random", "go"} }

const defaultDoor = "127.0.0.1:1080"

func defaultClientConfig() clientConfig {
	return clientConfig{
		Drain:  duration{5 * time.Second},
		Lanes:  1,
		Server: remoteConfig{Fingerprint: "chrome", Carriers: []string{overTLS, overWireGuard}},
		Door:   doorConfig{Listen: defaultDoor, Admission: admitAuto, User: "adit", EarlyReply: []uint16{}},
		IPsec:  defaultIPsecConfig(),
		Log:    defaultLogConfig(),
	}
}

func (c *clientConfig) validate(report func(key, what, todo string)) {
	c.Drain.validate("drain", report)
	if c.Lanes < 1 || c.Lanes > tunnel.MaxLanes {
		report("lanes", fmt.Sprintf("%d is out of range", c.Lanes), fmt.Sprintf("write a number from 1 to %d", tunnel.MaxLanes))
	}
	c.Server.validate(report)
	c.Door.validate(report)
	c.IPsec.validate(report)
	c.Log.validate(report)
}

func (c remoteConfig) validate(report func(key, what, todo string)) {
	if badAddress(c.Address) {
		report("server.address", strconv.Quote(c.Address)+" is not HOST:PORT", "adit join writes it from the invite")
	}
	if c.Name != "" && badName(c.Name) {
		report("server.name", strconv.Quote(c.Name)+" is no host name", "leave it empty to use the address's host")
	}
	if (c.Pin != "") == c.CA {
		report("server.pin", "there must be either a pin or ca = true", "adit join writes it from the invite")
	}
	if _, err := keys.ParsePin(c.Pin); c.Pin != "" && err != nil {
		report("server.pin", "not a pin", "it has 43 characters; adit join writes it from the invite")
	}
	if !slices.Contains(fingerprints(), c.Fingerprint) {
		report("server.fingerprint", "unknown fingerprint "+strconv.Quote(c.Fingerprint), oneOf(fingerprints()))
	}
	if (c.Mark != 0 || c.Interface != "") && !canSteer {
		report("server.mark", "this system knows neither marks nor interfaces of sockets", "remove mark and interface")
	}
	if badInterface(c.Interface) {
		report("server.interface", strconv.Quote(c.Interface)+" is no name of an interface", `write interface = "eth0"`)
	}
	c.Congestion.validate("server.congestion", report)
	c.validateCarriers(report)
}

// The kinds of carriers, in server.carriers.
const (
	overTLS       = "tls"
	overWireGuard = "wireguard"
	overIPsec     = "ipsec"
)

func (c remoteConfig) validateCarriers(report func(key, what, todo string)) {
	known := []string{overTLS, overWireGuard, overIPsec}
	for i, kind := range c.Carriers {
		switch {
		case !slices.Contains(known, kind):
			report("server.carriers", "unknown carrier "+strconv.Quote(kind), oneOf(known))
		case slices.Contains(c.Carriers[:i], kind):
			report("server.carriers", strconv.Quote(kind)+" is named twice", "name each once, the one to prefer first")
		}
	}
	switch {
	case len(c.Carriers) == 0:
		report("server.carriers", "there is no way to the server", `write carriers = ["tls", "wireguard"]`)
	case len(c.Carriers) == 1 && c.Carriers[0] == overWireGuard && c.WireGuardKey == "":
		report("server.carriers", "nothing says how to reach the server by WireGuard", "adit join writes it, if the server takes WireGuard")
	}
	over, alone := slices.Contains(c.Carriers, overIPsec), len(c.Carriers) == 1
	switch {
	case c.IPsecAddress != "" && badAddress(c.IPsecAddress), c.IPsecAddress == "" && over && alone:
		report("server.ipsec_address", strconv.Quote(c.IPsecAddress)+" is not HOST:PORT", `write what "listen" under [ipsec] in server.toml says: "10.8.0.1:8444"`)
	case over && c.CA && c.IPsecPin == "":
		report("server.ipsec_pin", "over IPsec the server proves who it is by its pinned key", "write the pin that adit check prints where the server runs; adit join does")
	}
	if _, err := keys.ParsePin(c.IPsecPin); c.IPsecPin != "" && err != nil {
		report("server.ipsec_pin", "not a pin", "it has 43 characters; adit join writes it")
	}
	if c.RequireIPsec && c.MPTCP {
		report("server.mptcp", "Multipath TCP would take ways that IPsec does not protect", "write mptcp = false")
	}
	if _, err := keys.ParseWireGuardPublic(c.WireGuardKey); c.WireGuardKey != "" && err != nil {
		report("server.wireguard_key", "not a WireGuard public key", "it has 44 characters, as wg show prints it; adit join writes it")
	}
	if c.WireGuardKey != "" && badAddress(c.WireGuardAddress) {
		report("server.wireguard_address", strconv.Quote(c.WireGuardAddress)+" is not HOST:PORT", "adit join writes it")
	}
}

// badInterface tells whether Linux has no interface of that name; empty is none.
func badInterface(name string) bool { return len(name) > 15 || strings.ContainsAny(name, "/ ") }

// badAddress tells whether an address cannot be dialled.
func badAddress(address string) bool {
	host, port, err := net.SplitHostPort(address)
	return err != nil || host == "" || port == "0" || badName(address)
}

func (c doorConfig) validate(report func(key, what, todo string)) {
	if c.Listen == "" && c.Socket == "" {
		report("door.listen", "the door has neither an address nor a socket", `write listen = "`+defaultDoor+`"`)
	}
	if what := badListen(c.Listen); c.Listen != "" && what != "" {
		report("door.listen", what, `write listen = "`+defaultDoor+`"`)
	}
	if !slices.Contains(admissions(), c.Admission) {
		report("door.admission", "unknown admission "+strconv.Quote(c.Admission), oneOf(admissions()))
	}
	if c.Listen != "" && !loopback(c.Listen) && c.Admission != admitPassword && c.Admission != admitExit {
		report("door.admission", "others can reach "+c.Listen, `write admission = "password" or "exit", or listen on a loopback address`)
	}
	if c.User == "" || len(c.User) > 255 {
		report("door.user", "a user name has 1 to 255 bytes", `write user = "adit"`)
	}
	if slices.Contains(c.EarlyReply, 0) {
		report("door.early_reply", "there is no port 0", "write ports from 1 to 65535: [443]")
	}
}

// loopback tells whether an address to listen on is out of other machines' reach.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// oneOf is a hint that names all there is to choose from.
func oneOf(words []string) string { return "known are: " + strings.Join(words, ", ") }
