package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// accepts tells whether a filter that goes by all lets a packet pass.
func accepts(all []Filter, sender int, q Request) bool {
	for _, f := range all {
		if !slices.Contains(f.Senders, sender) || !slices.Contains(f.Commands, q.Command) {
			continue
		}
		in := func(networks []netip.Prefix) bool {
			return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(q.Addr) })
		}
		has := func(ports []PortRange) bool {
			return slices.ContainsFunc(ports, func(p PortRange) bool { return p.First <= q.Port && q.Port <= p.Last })
		}
		if slices.ContainsFunc(f.To, func(d Destination) bool { return in(d.NotIn) || d.In != nil && !in(d.In) }) {
			continue
		}
		if q.Command != "ping" && (has(f.NotPorts) || f.Ports != nil && !has(f.Ports)) {
			continue
		}
		switch f.Effect {
		case Accept:
			return true
		case Drop:
			return false
		}
	}
	return false
}

func TestAFilterNeverAcceptsWhatThePolicyDenies(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	accepted, allowed := 0, 0
	for range 2000 {
		var b strings.Builder
		rules := make([]refRule, 1+rnd.IntN(6))
		for i := range rules {
			rules[i] = randomRule(rnd)
			rules[i].toml(&b)
			if rules[i].allow && rnd.IntN(8) == 0 {
				text := strings.TrimSuffix(b.String(), "\n")
				b.Reset()
				b.WriteString(text + "quota_per_day = \"1 GB\"\n\n")
			}
		}
		p, err := Read("policy.toml", []byte(b.String()), Options{Protocols: refProtocols})
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		senders := make([]Who, 3)
		for i := range senders {
			senders[i] = randomWho(rnd)
		}
		filters := p.Filters(senders)
		for range 50 {
			sender := rnd.IntN(len(senders))
			who, other, q := senders[sender], randomWho(rnd), randomRequest(rnd)
			who.From, who.Cipher = other.From, other.Cipher // which a filter does not know
			q.Dialect, q.Name, q.Anywhere = "wireguard", "", false
			if q.Command == "ping" {
				q.Port = 0
			}
			if !q.Addr.IsValid() || q.Protocol == "" || q.Command == "bind" {
				continue
			}
			d := p.For(who).Decide(q)
			if d.Outcome == Allow {
				allowed++
			}
			if !accepts(filters, sender, q) {
				continue
			}
			accepted++
			if d.Outcome != Allow || d.Rule.Limit.QuotaPerDay > 0 {
				t.Fatalf("it is %s, and the filter accepts it\n%#v\n%#v\n%s", d, who, q, b.String())
			}
		}
	}
	if accepted < allowed/4 {
		t.Errorf("the filters accept %d of %d that are allowed", accepted, allowed)
	}
}

func TestAFilterSaysWhatItCannotSee(t *testing.T) {
	for _, c := range []struct{ rule, want string }{
		{`then = "allow"`, "accept []"},
		{"ports = [\"80\", \"!443\"]\nthen = \"allow\"\nceiling_up = \"1 Mbit/s\"", "accept []"},
		{"protocols = [\"http\"]\nthen = \"allow\"", "skip [protocols]"},
		{"protocols = [\"http\"]\nthen = \"deny\"", "drop [protocols]"},
		{"hours = [\"08:00-18:00\"]\nfrom = [\"10.0.0.0/8\"]\nthen = \"allow\"", "skip [from hours]"},
		{"hours = [\"08:00-18:00\"]\nceiling_up = \"1 Mbit/s\"\nthen = \"allow\"", "drop [hours]"},
		{"max_flows = 3\nthen = \"allow\"", "drop [max_flows]"},
		{"require_ipsec = true\nthen = \"allow\"", "drop [require_ipsec]"},
		{"names = [\"!.example.com\"]\nthen = \"allow\"", "accept []"},
		{"names = [\".example.com\"]\nthen = \"deny\"", ""},
		{"asked = [\"name\"]\nthen = \"deny\"", ""},
		{"users = [\"bob\"]\nthen = \"deny\"", ""},
		{"commands = [\"bind\"]\nthen = \"deny\"", ""},
	} {
		got := ""
		for _, f := range read(t, "[[rule]]\n"+c.rule+"\n").Filters([]Who{{User: "alice"}}) {
			got += fmt.Sprint([...]string{"drop", "accept", "skip"}[f.Effect], " ", append([]string{}, f.Unseen...))
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.rule, got, c.want)
		}
	}
}
