package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestARuleThatRequiresIPsecDeniesWithoutIt(t *testing.T) {
	p := read(t, `
[[rule]]
name = "books"
ports = ["443"]
require_ipsec = true
then = "allow"

[[rule]]
name = "mail"
protocols = ["rtsp"]
require_ipsec = true
patience = "2m"
then = "allow"

[[rule]]
name = "web"
protocols = ["http"]
then = "allow"

[[expect]]
to = "192.0.2.7:443"
outcome = "deny"
rule = "books"
`)
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	if !p.For(Who{}).Wary() || p.Rules()[0].Limit.Patience != 30*time.Second || p.Rules()[1].Limit.Patience != 2*time.Minute {
		t.Errorf("the limits are %+v and %+v", p.Rules()[0].Limit, p.Rules()[1].Limit)
	}
	for _, c := range []struct{ protection, to, protocol, want string }{
		{"tls", "192.0.2.7:443", "", "deny: policy.toml:2: books: it requires IPsec, which does not protect the path"},
		{"ipsec:aes-gcm-128", "192.0.2.7:443", "", "allow: policy.toml:2: books: while IPsec protects the path"},
		{"ipsec:stated", "192.0.2.7:443", "http", "allow: policy.toml:2: books: while IPsec protects the path"},
		{"tls", "192.0.2.7:80", "", "needs protocol: policy.toml:8: mail"},
		{"tls", "192.0.2.7:80", "rtsp", "deny: policy.toml:8: mail: it requires IPsec, which does not protect the path"},
		{"tls", "192.0.2.7:80", "http", "allow: policy.toml:15: web"},
		{"tls", "192.0.2.7:80", "dns", "deny: no rule matches"},
	} {
		q := Request{Command: "connect", Protocol: c.protocol}
		var err error
		if _, q.Addr, q.Port, err = ParseTarget(c.to); err != nil {
			t.Fatal(err)
		}
		d := p.For(Who{Protection: []string{c.protection}}).Explain(q).Decision
		if got := d.String(); got != c.want || d.Unprotected != strings.Contains(c.want, "requires IPsec") {
			t.Errorf("%+v: %s (%t)", c, got, d.Unprotected)
		}
	}
}

// Its datagrams might go on in clear, and so might all that a guest says.
func TestRequirementIsNotMetWhereThePathCannotBeHeldToIPsec(t *testing.T) {
	p, err := Read("policy.toml", []byte("[[rule]]\nname = \"books\"\nrequire_ipsec = true\nthen = \"allow\""), Options{})
	if err != nil {
		t.Fatal(err)
	}
	const held, unheld = "allow: policy.toml:1: books: while IPsec protects the path", "deny: policy.toml:1: books: it requires IPsec, and the path cannot be held to it"
	for _, c := range []struct{ door, command, want string }{
		{"session", "connect", held},
		{"session", "associate", held},
		{"10.8.0.1:1080", "connect", held},
		{"10.8.0.1:1080", "bind", held},
		{"10.8.0.1:1080", "associate", unheld},
		{"wireguard", "connect", unheld},
		{"wireguard", "associate", unheld},
		{"wireguard", "ping", unheld},
	} {
		q := Request{Command: c.command, Addr: netip.MustParseAddr("192.0.2.7"), Port: 53, Protocol: "dns"}
		if got := p.For(Who{Door: c.door, Protection: []string{"ipsec:aes-gcm-128"}}).Decide(q).String(); got != c.want {
			t.Errorf("%s by %s: %s", c.command, c.door, got)
		}
		q.Protocol = ""
		d := p.For(Who{Door: c.door, Protection: []string{"tls"}}).Decide(q)
		if !d.Unprotected || d.Unheld {
			t.Errorf("%s by %s without IPsec: %+v", c.command, c.door, d)
		}
	}
}

func TestARequirementHasToMakeSense(t *testing.T) {
	for rule, want := range map[string]string{
		"patience = \"30s\"\nthen = \"allow\"":                         "policy.toml:2:12: patience is how long flows wait for IPsec, and the rule does not require it",
		"require_ipsec = true\npatience = \"soon\"\nthen = \"allow\"":  `policy.toml:3:12: patience: "soon" is no duration, such as 30s, 5m or 8h`,
		"require_ipsec = \"yes\"\nthen = \"allow\"":                    "policy.toml:2:17: require_ipsec: want true or false",
		"require_ipsec = true\nthen = \"deny\"":                        "policy.toml:1:3: the rule denies, and limits what it denies",
		"require_ipsec = false\nthen = \"deny\"":                       "",
		"require_ipsec = true\npatience = \"1h30m\"\nthen = \"allow\"": "",
	} {
		_, err := Read("policy.toml", []byte("[[rule]]\n"+rule), Options{})
		if got := errorText(err); got != want {
			t.Errorf("%s: %s", rule, got)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
