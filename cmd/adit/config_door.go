package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/adit-net/adit/server/door"
	"github.com/adit-net/adit/server/users"
)

// serverDoorConfig is one [[door]] of server.toml: where apps come in that have no
// client of adit's, and how they prove whose they are.
type serverDoorConfig struct {
	Listen  string   `toml:"listen"`
	Methods []string `toml:"methods"` // in the order of preference
	From    []string `toml:"from"`    // empty: from everywhere

	TLS   *bool  `toml:"tls"`   // nil: true
	Plain string `toml:"plain"` // plainProtected, or empty
	Cert  string `toml:"cert"`  // empty, as Key: the server's
	Key   string `toml:"key"`
	UDP   bool   `toml:"udp"`

	RequireIPsec bool              `toml:"require_ipsec"`
	Identities   map[string]string `toml:"identities"`

	ClientCA         string            `toml:"client_ca"`
	CertificateName  string            `toml:"certificate_name"` // empty: "cn"
	CertificateUsers map[string]string `toml:"certificate_users"`

	// As in loginConfig.
	Keytab     string   `toml:"keytab"`
	Services   []string `toml:"services"`
	Realms     []string `toml:"realms"`
	Protection string   `toml:"protection"`
	NEC        bool     `toml:"nec"`

	Networks map[string]string `toml:"networks"`
}

// plainProtected is what somebody says who knows that others neither read nor change
// what passes a door in the clear.
const plainProtected = "protected"

// maxDoors bounds how many doors a server has.
const maxDoors = 32

func (c serverDoorConfig) tls() bool { return c.TLS == nil || *c.TLS }

func (c serverDoorConfig) offers(m door.Method) bool { return slices.Contains(c.Methods, string(m)) }

// validateDoors names the doors door[1], door[2] and so on, in their order.
func validateDoors(all []serverDoorConfig, report func(key, what, todo string)) {
	if len(all) > maxDoors {
		report("door", fmt.Sprintf("there are %d", len(all)), fmt.Sprintf("a server has %d doors at most", maxDoors))
	}
	for i, c := range all {
		c.validate(func(key, what, todo string) { report(fmt.Sprintf("door[%d]%s", i+1, key), what, todo) })
	}
}

func (c serverDoorConfig) validate(report func(key, what, todo string)) {
	if what := badListen(c.Listen); what != "" {
		report(".listen", what, `an address is ":1080" or "192.0.2.1:1080"`)
	}
	if len(c.Methods) == 0 {
		report(".methods", "nothing says how apps prove whose they are", `write methods = ["password"]`)
	}
	for i, m := range c.Methods {
		switch {
		case !slices.Contains(door.Methods(), door.Method(m)):
			report(".methods", "unknown method "+strconv.Quote(m), "known are: gssapi, password, certificate, ike, network")
		case slices.Contains(c.Methods[:i], m):
			report(".methods", strconv.Quote(m)+" is named twice", "name each once, the one to prefer first")
		}
	}
	for _, text := range c.From {
		if what := badPrefix(text); what != "" {
			report(".from", what, `write networks as "10.8.0.0/16"`)
		}
	}
	if c.RequireIPsec && c.UDP {
		report(".udp", "datagrams cannot be held to IPsec", "write udp = false, or leave out require_ipsec")
	}
	c.validateTLS(report)
	c.validateCertificates(report)
	c.validateKerberos(report)
	c.validateNetworks(report)
	c.validateIdentities(report)
}

func (c serverDoorConfig) validateTLS(report func(key, what, todo string)) {
	switch {
	case c.Plain != "" && c.Plain != plainProtected:
		report(".plain", "unknown word "+strconv.Quote(c.Plain), `write plain = "protected", or nothing`)
	case c.tls() && c.Plain != "":
		report(".plain", "the door is not plain: it speaks TLS", "write tls = false, or remove plain")
	case !c.tls() && c.Plain == "" && !c.RequireIPsec && !loopback(c.Listen):
		report(".tls", "anybody on the way to "+c.Listen+" could read and change what passes",
			`write tls = true; or require_ipsec = true; or plain = "protected", if something else protects the whole path`)
	}
	if (c.Cert == "") != (c.Key == "") {
		report(".cert", "cert and key go together", "name both files, or neither")
	}
	if !c.tls() && c.Cert != "" {
		report(".cert", "a door without TLS shows no certificate", "write tls = true, or remove cert and key")
	}
}

func (c serverDoorConfig) validateCertificates(report func(key, what, todo string)) {
	offered := c.offers(door.Certificate)
	switch {
	case offered && !c.tls():
		report(".methods", "without TLS there are no certificates", "write tls = true, or another method")
	case offered != (c.ClientCA != ""):
		report(".client_ca", "the method certificate and client_ca go together", "name the PEM file of the CA that issues the apps' certificates")
	}
	if err := new(door.Field).UnmarshalText([]byte(c.CertificateName)); c.CertificateName != "" && err != nil {
		report(".certificate_name", "unknown field "+strconv.Quote(c.CertificateName), "known are: cn, email, upn")
	}
	for name, user := range c.CertificateUsers {
		if name == "" || users.ValidName(user) != nil {
			report(".certificate_users", strconv.Quote(user)+" cannot be the name of a user", `write { "Alice Example" = "alice" }`)
		}
	}
}

func (c serverDoorConfig) validateKerberos(report func(key, what, todo string)) {
	validateKerberos(c.offers(door.GSSAPI), c.Keytab, c.Protection, report)
}

func (c serverDoorConfig) validateNetworks(report func(key, what, todo string)) {
	if c.offers(door.Network) != (len(c.Networks) > 0) {
		report(".networks", "the method network and networks go together", `write networks = { "10.8.0.0/16" = "partner" }`)
	}
	for text, user := range c.Networks {
		what := badPrefix(text)
		if p, err := netip.ParsePrefix(text); err == nil && p.Bits() == 0 {
			what = text + " is everybody"
		}
		if what != "" {
			report(".networks", what, `write { "10.8.0.0/16" = "partner" }`)
		}
		if users.ValidName(user) != nil {
			report(".networks", strconv.Quote(user)+" cannot be the name of a user", `write { "10.8.0.0/16" = "partner" }`)
		}
	}
}

func (c serverDoorConfig) validateIdentities(report func(key, what, todo string)) {
	offered := c.offers(door.IKE)
	if offered != (len(c.Identities) > 0) {
		report(".identities", "the method ike and identities go together", `write identities = { "gateway.example.org" = "partner" }`)
	}
	if offered && !c.RequireIPsec {
		report(".methods", "who has come in by IKE could go on in the clear", "write require_ipsec = true, or another method")
	}
	for identity, user := range c.Identities {
		if identity == "" || users.ValidName(user) != nil {
			report(".identities", strconv.Quote(user)+" cannot be the name of a user", `write { "gateway.example.org" = "partner" }`)
		}
	}
}

// badPrefix says why a text is no network, or "".
func badPrefix(text string) string {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return strconv.Quote(text) + " is no network"
	case p != p.Masked():
		return text + " is no network, but an address in " + p.Masked().String()
	}
	return ""
}
