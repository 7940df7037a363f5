package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The reference goes through the rules one by one and compares words, with nothing in
// common with the package but the words themselves.

type refRule struct {
	clauses map[string][]string
	when    string
	allow   bool
	secure  bool // only while IPsec protects the path
}

var refPools = map[string][]string{
	"users":      {"alice", "bob", "carol", "dave", "erin"},
	"groups":     {"staff", "partners", "field", "ops"},
	"devices":    {"laptop", "phone", "tablet"},
	"doors":      {"127.0.0.1:1080", "10.0.0.1:1080"},
	"methods":    {"device", "password", "gssapi"},
	"protection": {"tls", "wireguard", "ipsec", "none"},
	"ciphers":    {"TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"},
	"dialects":   {"socks5", "socks6", "http"},
	"commands":   {"connect", "bind", "associate"},
	"asked":      {"name", "address"},
	"protocols":  {"rtsp", "http", "hls", "dns", "@media"},
	"signs":      {"other-host", "misplaced", "doubtful", "none"},
	"from":       {"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "2001:db8::/32", "0.0.0.0/0"},
	"networks":   {"192.0.2.0/24", "192.0.2.128/25", "192.0.2.200", "0.0.0.0/0", "2001:db8:1::/48", "::/0", "198.51.100.0/24"},
	"names":      {"example.com", ".example.com", "www.example.com", "*.example.com", "w*.example.*", ".com", "example.org", ".media.example.org", "?edia.example.org"},
	"ports":      {"80", "443", "554", "1-1023", "8000-8100", "0-65535"},
	"days":       {"mon-fri", "sat", "fri-mon"},
	"hours":      {"08:00-18:00", "22:00-06:00", "12:00-13:00"},
}

var refProtocols = map[string]string{"rtsp": "media", "hls": "media", "http": "web", "dns": "network"}

var refGroups = map[string][]string{"staff": {"alice", "bob"}, "field": {"bob", "carol"}}

var refWhens = map[string]func(w Who, q Request) truth{
	`port > 500`:         func(_ Who, q Request) truth { return truthOf(q.Port > 500) },
	`user == "alice"`:    func(w Who, _ Request) truth { return truthOf(w.User == "alice") },
	`"staff" in groups`:  func(w Who, _ Request) truth { return truthOf(slices.Contains(refMember(w), "staff")) },
	`protocol == "rtsp"`: func(_ Who, q Request) truth { return refKnown(q.Protocol != "", needsProtocol, q.Protocol == "rtsp") },
	`address in "192.0.2.0/25"`: func(_ Who, q Request) truth {
		return refKnown(q.Addr.IsValid(), needsAddress, netip.MustParsePrefix("192.0.2.0/25").Contains(q.Addr))
	},
	`name endsWith "org" && not (name matches "^media[.]")`: func(_ Who, q Request) truth {
		return truthOf(strings.HasSuffix(q.Name, "org") && !strings.HasPrefix(q.Name, "media."))
	},
}

func refKnown(known bool, otherwise truth, is bool) truth {
	if !known {
		return otherwise
	}
	return truthOf(is)
}

func refMember(w Who) []string {
	all := slices.Clone(w.Groups)
	for g, members := range refGroups {
		if slices.Contains(members, w.User) {
			all = append(all, g)
		}
	}
	return all
}

// refWord tells whether one word of a clause fits.
func refWord(key, word string, w Who, q Request) bool {
	in := func(a netip.Addr) bool {
		p, err := netip.ParsePrefix(word)
		if err != nil {
			return a == netip.MustParseAddr(word)
		}
		return p.Contains(a)
	}
	switch key {
	case "users":
		return w.User == word
	case "groups":
		return slices.Contains(refMember(w), word)
	case "devices":
		return w.Device == word
	case "doors":
		return w.Door == word
	case "methods":
		return w.Method == word
	case "protection":
		return slices.Contains(w.Protection, word) || word == "none" && len(w.Protection) == 0
	case "ciphers":
		return w.Cipher == word
	case "dialects":
		return q.Dialect == word
	case "commands":
		return q.Command == word
	case "asked":
		return (word == "name") == (q.Name != "")
	case "protocols":
		group, grouped := strings.CutPrefix(word, "@")
		return q.Protocol == word || q.Carries == word || grouped && (refProtocols[q.Protocol] == group || refProtocols[q.Carries] == group)
	case "signs":
		return slices.Contains(q.Signs, word) || word == "none" && len(q.Signs) == 0
	case "from":
		return in(w.From)
	case "networks":
		return in(q.Addr)
	case "names":
		return refName(word, q.Name)
	case "ports":
		var from, to uint16
		if n, _ := fmt.Sscanf(word, "%d-%d", &from, &to); n == 1 {
			to = from
		}
		return from <= q.Port && q.Port <= to
	case "days":
		return slices.Contains(map[string][]time.Weekday{"mon-fri": {1, 2, 3, 4, 5}, "sat": {6}, "fri-mon": {5, 6, 0, 1}}[word], q.Time.UTC().Weekday())
	case "hours":
		h := q.Time.UTC().Hour()
		return map[string]bool{"08:00-18:00": 8 <= h && h < 18, "22:00-06:00": h >= 22 || h < 6, "12:00-13:00": h == 12}[word]
	}
	panic(key)
}

func refName(word, name string) bool {
	if name == "" {
		return false
	}
	if strings.HasPrefix(word, ".") {
		return strings.HasSuffix("."+name, word)
	}
	want, have := strings.Split(word, "."), strings.Split(name, ".")
	return slices.EqualFunc(want, have, refLabel)
}

func refLabel(glob, label string) bool {
	switch {
	case glob == "":
		return label == ""
	case glob[0] == '*':
		return refLabel(glob[1:], label) || label != "" && refLabel(glob, label[1:])
	}
	return label != "" && (glob[0] == '?' || glob[0] == label[0]) && refLabel(glob[1:], label[1:])
}

func (r refRule) judge(w Who, q Request) truth {
	said := yes
	for key, words := range r.clauses {
		if q.Anywhere && slices.Contains([]string{"names", "networks", "ports", "asked"}, key) {
			said = max(said, needsAddress)
			continue
		}
		if key == "networks" && !q.Addr.IsValid() {
			said = max(said, needsAddress)
			continue
		}
		if (key == "protocols" || key == "signs") && q.Protocol == "" {
			said = max(said, needsProtocol)
			continue
		}
		named, fits := false, false
		for _, word := range words {
			word, not := strings.CutPrefix(word, "!")
			fit := refWord(key, word, w, q)
			if not && fit {
				return no
			}
			named, fits = named || !not, fits || !not && fit
		}
		if named && !fits {
			return no
		}
	}
	if q.Anywhere && (strings.Contains(r.when, "port") || strings.Contains(r.when, "address") || strings.Contains(r.when, "name")) {
		said = max(said, needsAddress)
	} else if r.when != "" {
		said = max(said, refWhens[r.when](w, q))
	}
	return said
}

// refDecide gives the outcome and the number of the rule, -1 for none. Where only IPsec is
// missing, or the path cannot be held to it, that of the first rule that wants it.
func refDecide(rules []refRule, w Who, q Request) (outcome Outcome, rule int, unprotected bool) {
	held := w.Door == "" || w.Door != "wireguard" && q.Command != "associate"
	if held && slices.Contains(w.Protection, "ipsec") {
		outcome, rule = refDecideAmong(rules, w, q)
		return outcome, rule, false
	}
	bare := slices.Clone(rules)
	for i := range bare {
		bare[i].allow = bare[i].allow && !bare[i].secure
	}
	if outcome, rule = refDecideAmong(bare, w, q); outcome != Deny {
		return outcome, rule, false
	}
	if otherwise, _ := refDecideAmong(rules, w, q); otherwise == Deny {
		return outcome, rule, false
	}
	for i, r := range rules {
		if r.allow && r.judge(w, q) != no {
			return Deny, i, true
		}
	}
	panic("no rule has decided")
}

func refDecideAmong(rules []refRule, w Who, q Request) (Outcome, int) {
	open, need, allows := -1, yes, false
	settle := func(outcome Outcome, rule int) (Outcome, int) {
		if open >= 0 && (allows || outcome == Allow) {
			return map[truth]Outcome{needsAddress: NeedsAddress, needsProtocol: NeedsProtocol}[need], open
		}
		return outcome, rule
	}
	for i, r := range rules {
		switch said := r.judge(w, q); said {
		case no:
		case yes:
			if r.allow {
				return settle(Allow, i)
			}
			return settle(Deny, i)
		default:
			if said > need {
				open, need = i, said
			}
			allows = allows || r.allow
		}
	}
	return settle(Deny, -1)
}

func (r refRule) toml(b *strings.Builder) {
	b.WriteString("[[rule]]\n")
	for key, words := range r.clauses {
		fmt.Fprintf(b, "%s = [\"%s\"]\n", key, strings.Join(words, `", "`))
	}
	if r.when != "" {
		fmt.Fprintf(b, "when = '%s'\n", r.when)
	}
	if r.secure {
		b.WriteString("require_ipsec = true\n")
	}
	fmt.Fprintf(b, "then = %q\n\n", map[bool]string{true: "allow", false: "deny"}[r.allow])
}

func pick[T any](rnd *rand.Rand, all ...T) T { return all[rnd.IntN(len(all))] }

func randomRule(rnd *rand.Rand) refRule {
	r := refRule{clauses: make(map[string][]string), allow: rnd.IntN(2) == 0}
	r.secure = r.allow && rnd.IntN(3) == 0
	keys := make([]string, 0, len(refPools))
	for key := range refPools {
		keys = append(keys, key)
	}
	slices.Sort(keys) // so that a seed says it all
	for range rnd.IntN(4) {
		key := pick(rnd, keys...)
		var words []string
		for range 1 + rnd.IntN(3) {
			words = append(words, pick(rnd, "", "", "!")+pick(rnd, refPools[key]...))
		}
		r.clauses[key] = words
	}
	if rnd.IntN(8) == 0 {
		whens := make([]string, 0, len(refWhens))
		for when := range refWhens {
			whens = append(whens, when)
		}
		slices.Sort(whens)
		r.when = pick(rnd, whens...)
	}
	return r
}

func randomWho(rnd *rand.Rand) Who {
	w := Who{
		User: pick(rnd, "alice", "bob", "carol", "dave", "stranger", ""), Device: pick(rnd, "laptop", "phone", ""),
		From: netip.MustParseAddr(pick(rnd, "10.1.2.3", "10.1.2.4", "10.9.9.9", "203.0.113.1", "2001:db8::1")),
		Door: pick(rnd, "127.0.0.1:1080", "wireguard", ""), Method: pick(rnd, "device", "password", "certificate"),
		Cipher: pick(rnd, "TLS_AES_128_GCM_SHA256", ""),
	}
	for _, g := range []string{"partners", "ops"} {
		if rnd.IntN(3) == 0 {
			w.Groups = append(w.Groups, g)
		}
	}
	for _, p := range []string{"tls", "wireguard", "ipsec"} {
		if rnd.IntN(3) == 0 {
			w.Protection = append(w.Protection, p)
		}
	}
	return w
}

func randomRequest(rnd *rand.Rand) Request {
	q := Request{
		Dialect: pick(rnd, "socks5", "socks6", "http", "direct"), Command: pick(rnd, "connect", "connect", "bind", "associate", "ping"),
		Name:     pick(rnd, "", "example.com", "www.example.com", "a.b.example.com", "example.org", "x.media.example.org", "media.example.org", "net", "badexample.com", "org"),
		Addr:     netip.MustParseAddr(pick(rnd, "192.0.2.1", "192.0.2.200", "198.51.100.7", "203.0.113.9", "2001:db8:1::1", "2001:db8:2::1")),
		Port:     pick[uint16](rnd, 0, 80, 443, 554, 8080, 65535),
		Protocol: pick(rnd, "", "rtsp", "http", "dns", "unknown"),
		Time:     time.Date(2026, 1, 1+rnd.IntN(7), rnd.IntN(24), rnd.IntN(60), 0, 0, time.UTC),
	}
	if q.Name != "" && rnd.IntN(2) == 0 {
		q.Addr = netip.Addr{}
	}
	if rnd.IntN(8) == 0 {
		q.Name, q.Addr, q.Port, q.Anywhere = "", netip.Addr{}, 0, true
	}
	if q.Protocol != "" && rnd.IntN(2) == 0 {
		q.Signs = []string{pick(rnd, "other-host", "misplaced"), "doubtful"}[:1+rnd.IntN(2)]
	}
	if q.Protocol == "http" {
		q.Carries = pick(rnd, "", "hls")
	}
	return q
}

// compare looks whether both decide alike.
func compare(t *testing.T, text string, p *Policy, rules []refRule, w Who, q Request) {
	t.Helper()
	e := p.For(w).Explain(q)
	got := e.Decision
	outcome, number, unprotected := refDecide(rules, w, q)
	if at := slices.Index(p.rules, got.Rule); got.Outcome != outcome || at != number || got.Unprotected != unprotected {
		t.Fatalf("decision is %s by rule %d (%t), want %s by rule %d (%t)\n%#v\n%#v\n%s", got.Outcome, at, got.Unprotected, outcome, number, unprotected, w, q, text)
	}
	first := slices.IndexFunc(rules, func(r refRule) bool { return r.judge(w, q) == yes })
	if first < 0 {
		first = len(rules)
	}
	if len(e.Passed) != first {
		t.Fatalf("%d rules have passed, want %d\n%#v\n%#v\n%s", len(e.Passed), first, w, q, text)
	}
	for i, passed := range e.Passed {
		if passed.Rule != p.rules[i] || passed.Open != (rules[i].judge(w, q) != no) {
			t.Fatalf("rule %d is explained as %s\n%#v\n%#v\n%s", i, passed, w, q, text)
		}
	}
}

func TestRandomRulesDecideAsTheReferenceDoes(t *testing.T) {
	policies, requests := 100, 100
	if os.Getenv("ADIT_FULL") != "" {
		policies = 10_000
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range policies {
		var b strings.Builder
		for group, members := range refGroups {
			fmt.Fprintf(&b, "groups.%s = [\"%s\"]\n", group, strings.Join(members, `", "`))
		}
		rules := make([]refRule, pick(rnd, 1, 3, 10, 70, 200))
		for i := range rules {
			rules[i] = randomRule(rnd)
			rules[i].toml(&b)
		}
		p, err := Read("policy.toml", []byte(b.String()), Options{Protocols: refProtocols})
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		for range requests {
			compare(t, b.String(), p, rules, randomWho(rnd), randomRequest(rnd))
		}
	}
}

// What is decided early stays so, whatever becomes known later.
func TestNothingThatBecomesKnownOverturnsADecision(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		var b strings.Builder
		for range pick(rnd, 1, 3, 10) {
			randomRule(rnd).toml(&b)
		}
		p, err := Read("policy.toml", []byte(b.String()), Options{Protocols: refProtocols})
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			c, q := p.For(randomWho(rnd)), randomRequest(rnd)
			early := c.Decide(q)
			for range 5 {
				q, later := q, randomRequest(rnd)
				if q.Anywhere {
					q.Name, q.Port, q.Anywhere = later.Name, later.Port, false
				}
				if !q.Addr.IsValid() {
					q.Addr = netip.MustParseAddr(pick(rnd, "192.0.2.1", "192.0.2.200", "198.51.100.7", "2001:db8:1::1"))
				}
				if q.Protocol == "" {
					q.Protocol, q.Carries, q.Signs = pick(rnd, "rtsp", "http", "unknown"), later.Carries, later.Signs
				}
				d := c.Decide(q)
				if d.Outcome == NeedsAddress || d.Outcome == NeedsProtocol {
					t.Fatalf("all is known, and it %s", d)
				}
				if settled := early.Outcome == Allow || early.Outcome == Deny; settled && d.Outcome != early.Outcome {
					t.Fatalf("it was %s, and then %s\n%s", early, d, b.String())
				}
			}
		}
	}
}
