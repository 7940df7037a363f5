package policy

import (
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func optionsWith(files map[string]string) Options {
	dir := make(fstest.MapFS)
	for name, text := range files {
		dir[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return Options{Protocols: refProtocols, Open: func(name string) (io.ReadCloser, error) { return dir.Open(name) }}
}

func read(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Read("policy.toml", []byte(text), optionsWith(map[string]string{"ads": "0.0.0.0 ads.example.net\n", "bad": "198.51.100.0/24\n.evil.example\n"}))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// everything has each key of the format.
const everything = `
zone = "Europe/Berlin"

[groups]
partners = ["acme", "widgets"]

[lists]
ads = "ads"

[[rule]]
name = "no advertisements"
lists = ["ads"]
then = "deny"

[[rule]]
name = "partners' video"
users = ["!intern"]
groups = ["partners"]
devices = ["gateway"]
doors = ["192.0.2.1:1080"]
methods = ["certificate"]
protection = ["tls"]
ciphers = ["TLS_AES_128_GCM_SHA256"]
dialects = ["socks5"]
commands = ["connect"]
asked = ["name"]
from = ["203.0.113.0/24"]
names = [".media.example.com", "!old.media.example.com"]
networks = ["192.0.2.0/24"]
ports = ["554", "8000-8100"]
protocols = ["rtsp", "hls"]
signs = ["none"]
days = ["mon-fri"]
hours = ["08:00-18:00"]
zone = "America/New_York"
when = "port > 100"
then = "allow"
rate_up = "500 kbit/s"
rate_down = "1.5 Mbit/s"
ceiling_up = "1 Gbit/s"
ceiling_down = "8 Mbit/s"
quota_per_day = "10 GB"
quota_per_month = "1 TiB"
max_flows = 20
idle = "5m"
total = "8h"
record = "full"
udp_filtering = "address-dependent"

[[expect]]
user = "acme"
groups = ["customers"]
device = "gateway"
door = "192.0.2.1:1080"
method = "certificate"
protection = ["tls"]
cipher = "TLS_AES_128_GCM_SHA256"
dialect = "socks5"
command = "connect"
from = "203.0.113.9"
to = "WWW.Media.Example.COM.:554"
address = "192.0.2.7"
protocol = "http"
carries = "hls"
at = 2026-07-01T09:30:00-04:00
outcome = "allow"
rule = "partners' video"
`

func TestEveryKeyOfTheFormatIsRead(t *testing.T) {
	p := read(t, everything)
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	want := Limit{
		RateUp: 500e3, RateDown: 1.5e6, CeilingUp: 1e9, CeilingDown: 8e6, QuotaPerDay: 10e9, QuotaPerMonth: 1 << 40,
		MaxFlows: 20, Idle: 5 * time.Minute, Total: 8 * time.Hour, Record: "full", UDPFiltering: "address-dependent",
	}
	if got := p.Rules()[1].Limit; got != want {
		t.Errorf("limits are %+v", got)
	}
	if !p.Listens() || !p.Timed() || p.Expectations() != 1 {
		t.Error("what decisions depend on is not known")
	}
}

func TestTheExampleOfTheDocumentationIsAPolicy(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "# The file\n")
	text, _, _ = strings.Cut(text, "# Clauses\n")
	var example strings.Builder
	for line := range strings.Lines(text) {
		if line, found := strings.CutPrefix(line, "\t"); found {
			example.WriteString(line)
		}
	}
	p := read(t, strings.ReplaceAll(example.String(), "ads.hosts", "ads"))
	if err := p.Check(); err != nil || p.Expectations() != 1 {
		t.Errorf("%d examples, error is %v", p.Expectations(), err)
	}
}

// Each clause is needed for a match: with one fact changed, the rule does not match.
func TestEveryClauseCounts(t *testing.T) {
	for key, other := range map[string]string{
		"user": `"intern"`, "device": `"laptop"`, "door": `"session"`, "method": `"password"`, "protection": `["ipsec"]`, "cipher": `"none"`,
		"dialect": `"socks6"`, "command": `"bind"`, "from": `"203.0.114.1"`, "address": `"192.0.3.1"`, "protocol": `"dns"`, "carries": `"dns"`,
		"at": "2026-07-01T19:00:00-04:00", "to": `"old.media.example.com:554"`,
	} {
		lines := strings.Split(everything, "\n")
		at := slices.Index(lines, "[[expect]]")
		i := at + slices.IndexFunc(lines[at:], func(l string) bool { return strings.HasPrefix(l, key+" = ") })
		lines[i] = key + " = " + other
		if key == "protocol" {
			lines = slices.Delete(lines, i+1, i+2) // what it carries
		}
		if err := read(t, strings.Join(lines, "\n")).Check(); err == nil {
			t.Errorf("with another %s, the rule still matches", key)
		}
	}
}

func TestExpectations(t *testing.T) {
	text := `
[[rule]]
name = "web"
ports = ["80", "443"]
then = "allow"

[[rule]]
name = "inside"
networks = ["10.0.0.0/8"]
then = "allow"

[[expect]]
to = "example.com:443"
outcome = "allow"
rule = "web"

[[expect]]
to = "example.com:25"
outcome = "needs address"
`
	if err := read(t, text).Check(); err != nil {
		t.Error(err)
	}
	err := read(t, text+"[[expect]]\nto = \"10.1.2.3:80\"\noutcome = \"allow\"\nrule = \"inside\"\n\n[[expect]]\nto = \"192.0.2.1:25\"\noutcome = \"allow\"\n").Check()
	want := "policy.toml:20:3: expected that rule inside decides, but it is allow: policy.toml:2: web\n" +
		"policy.toml:25:3: expected allow, but it is deny: no rule matches"
	if err == nil || err.Error() != want {
		t.Errorf("error is\n%v", err)
	}
}

func TestEverythingWrongInAFileIsSaidWithItsPlace(t *testing.T) {
	o := optionsWith(map[string]string{"broken": "a.example\nb c d\n"})
	_, err := Read("policy.toml", []byte(`zone = "Mars/Olympus"
colour = "red"
[lists]
missing = "missing"
broken = "broken"
[[rule]]
name = "one"
users = "alice"
networks = ["192.0.2.1/24", "10.0.0.0/8", "nowhere"]
names = ["a b", "*", "bücher*.example"]
ports = ["70000", "9-1"]
protocols = ["teleport", "@magic"]
commands = ["connect", "fly"]
lists = ["unknown"]
days = ["mo"]
hours = ["8-18"]
when = "prot > 5"
then = "perhaps"
userz = ["alice"]
[[rule]]
name = "one"
then = "deny"
ceiling_up = "8 Mbit/s"
quota_per_day = "1 GB"
[[rule]]
then = "allow"
rate_up = "8 Mbit"
max_flows = 0
[[expect]]
to = "example.com"
rule = "none"
at = "noon"
`), o)
	want := `policy.toml:1:8: there is no time zone "Mars/Olympus"
policy.toml:2:1: unknown key colour
policy.toml:4:11: read list missing: open missing: file does not exist
policy.toml:5:10: read list broken: broken:2: "b c d" is more than one name or network, and no line of a hosts file that blocks names
policy.toml:8:9: users: want a list of texts: ["one", "two"]
policy.toml:9:13: networks: "192.0.2.1/24" is no network, but an address in 192.0.2.0/24
policy.toml:9:43: networks: "nowhere" is no network, such as 192.0.2.0/24
policy.toml:10:10: names: "a b" is no name, such as www.example.com, .example.com or *.example.com
policy.toml:10:17: names: "*" has no name in it; for all names write asked = ["name"]
policy.toml:10:22: names: "bücher*.example" is no name with * or ? in it, and may have no letters but those of ASCII
policy.toml:11:10: ports: "70000" is no port and no range of ports, such as 443 or 8000-8100
policy.toml:11:19: ports: "9-1" is no port and no range of ports, such as 443 or 8000-8100
policy.toml:12:14: protocols: there is no protocol or group "teleport"
policy.toml:12:26: protocols: there is no protocol or group "@magic"
policy.toml:13:24: commands: "fly" is none of connect, bind, associate, resolve, ping
policy.toml:14:10: lists: [lists] has no "unknown", but broken, missing
policy.toml:15:9: days: "mo" is no day and no range of days, such as sat or mon-fri
policy.toml:16:10: hours: "8-18" is no span of hours, such as 08:00-18:00
policy.toml:17:8: when: at 1: there is no prot in expressions
policy.toml:18:8: then: "perhaps" is neither allow nor deny
policy.toml:19:1: unknown key rule.userz
policy.toml:20:3: the rule denies, and limits what it denies
policy.toml:20:3: there are two rules with the name "one"
policy.toml:27:11: rate_up: "8 Mbit" is no rate, such as 8 Mbit/s
policy.toml:28:13: max_flows: 0 is no number of flows
policy.toml:29:3: the example does not say what is expected
policy.toml:29:3: there is no rule with the name "none"
policy.toml:30:6: to: "example.com" is not HOST:PORT
policy.toml:32:6: at: want a time with a zone: 2026-07-01T09:30:00+02:00`
	if err == nil {
		t.Fatal("it was read")
	}
	got, lines := strings.Split(err.Error(), "\n"), strings.Split(want, "\n")
	for i := range max(len(got), len(lines)) {
		if i >= len(got) || i >= len(lines) || got[i] != lines[i] {
			t.Errorf("the errors are\n%v", err)
			break
		}
	}
	if p, ok := errors.AsType[*Problem](err); !ok || p.Todo == "" {
		t.Error("it is not said what to do")
	}
}

// Nobody is left out of a group that denies because of a slip.
func TestAGroupHasUsersAlone(t *testing.T) {
	for _, word := range []string{"!bob", " bob", ""} {
		_, err := Read("policy.toml", []byte("groups.staff = [\"alice\", \""+word+"\"]\n"), Options{})
		if p, ok := errors.AsType[*Problem](err); !ok || p.Column != 26 {
			t.Errorf("%q: error is %v", word, err)
		}
	}
}

func TestAFileThatIsNoTOMLIsRefusedWithItsPlace(t *testing.T) {
	_, err := Read("policy.toml", []byte("[[rule]]\nthen = allow\n"), Options{})
	if p, ok := errors.AsType[*Problem](err); !ok || p.Line != 2 || p.File != "policy.toml" {
		t.Errorf("error is %v", err)
	}
}

func TestWithoutRulesNothingIsAllowed(t *testing.T) {
	d := read(t, "").For(Who{User: "alice"}).Decide(Request{Command: "connect", Name: "example.com", Port: 443})
	if d.Outcome != Deny || d.Rule != nil || d.String() != "deny: no rule matches" {
		t.Errorf("decision is %s", d)
	}
}

func TestAListThatCannotBeOpenedIsSaid(t *testing.T) {
	_, err := Read("policy.toml", []byte("lists.a = \"gone\"\n"), optionsWith(nil))
	if err == nil || !strings.Contains(err.Error(), fs.ErrNotExist.Error()) {
		t.Errorf("error is %v", err)
	}
}

func TestAnExampleHasToSayWhenIfRulesWantToKnow(t *testing.T) {
	text := "[[rule]]\nhours = [\"08:00-18:00\"]\nthen = \"allow\"\n[[expect]]\nto = \"example.com:80\"\noutcome = \"allow\"\n"
	if _, err := Read("policy.toml", []byte(text), Options{}); err == nil || !strings.Contains(err.Error(), "does not say when") {
		t.Errorf("error is %v", err)
	}
}

func TestExplainNamesTheFirstClauseThatDoesNotMatch(t *testing.T) {
	p := read(t, everything+`
[[rule]]
name = "the rest"
ports = ["554"]
then = "deny"
`)
	c := p.For(Who{User: "bob", From: netip.MustParseAddr("203.0.113.7")})
	e := c.Explain(Request{Command: "connect", Name: "media.example.com", Port: 554, Time: time.Unix(0, 0)})
	if e.Outcome != Deny || e.Rule.Name != "the rest" || len(e.Passed) != 2 {
		t.Fatalf("%s, %v", e.Decision, e.Passed)
	}
	want := []string{
		"policy.toml:10: no advertisements: lists does not match (media.example.com)",
		"policy.toml:15: partners' video: groups does not match (none)",
	}
	for i, p := range e.Passed {
		if p.String() != want[i] {
			t.Errorf("%s", p)
		}
	}
}

func TestExplainSaysWhatIsNotKnownYet(t *testing.T) {
	p := read(t, "[[rule]]\nnetworks = [\"10.0.0.0/8\"]\nthen = \"allow\"\n")
	e := p.For(Who{}).Explain(Request{Command: "connect", Name: "media.example.com", Port: 554})
	if e.Outcome != NeedsAddress || len(e.Passed) != 1 || e.Passed[0].String() != "policy.toml:1: line 1: networks cannot be judged yet" {
		t.Errorf("%s, %v", e.Decision, e.Passed)
	}
}

func TestProtectionIsWrittenInKnownWords(t *testing.T) {
	for _, word := range []string{"tls", "wireguard", "ipsec", "ipsec:aes-gcm", "ipsec:aes-cbc-256+hmac-sha256-128", "gss-integrity", "none"} {
		if got, err := ParseProtection(word); err != nil || got != word {
			t.Errorf("%q: %q, %v", word, got, err)
		}
	}
	for _, word := range []string{"", "ipsec:", "ipsec:AES", "ipsec:aes gcm", "tls:1.3", "gss", "!ipsec"} {
		if got, err := ParseProtection(word); err == nil {
			t.Errorf("%q: %q", word, got)
		}
	}
}
