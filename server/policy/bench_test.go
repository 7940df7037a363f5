package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// thousandRules are what a company may have: users' own networks and names.
func thousandRules() string {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "[[rule]]\nname = \"rule %d\"\n", i)
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "users = [\"user%d\", \"user%d\"]\nnetworks = [\"10.%d.%d.0/24\"]\nports = [\"443\", \"8000-8100\"]\n", i/4, i/8, i/250, i%250)
		case 1:
			fmt.Fprintf(&b, "groups = [\"group%d\"]\nnames = [\".dept%d.example.com\", \"!secret.dept%d.example.com\"]\ncommands = [\"connect\"]\n", i%20, i, i)
		case 2:
			fmt.Fprintf(&b, "from = [\"172.16.%d.0/24\"]\nnames = [\"host%d.example.net\"]\nnetworks = [\"198.18.%d.0/24\"]\n", i%250, i, i%250)
		case 3:
			fmt.Fprintf(&b, "groups = [\"group%d\", \"!group%d\"]\nprotocols = [\"rtsp\"]\nports = [\"%d\"]\n", i%20, (i+1)%20, i)
		}
		b.WriteString("then = \"allow\"\n")
	}
	b.WriteString("[[rule]]\nname = \"the rest\"\ncommands = [\"connect\"]\nnetworks = [\"0.0.0.0/0\"]\nthen = \"allow\"\n")
	return b.String()
}

func benchmarkPolicy(tb testing.TB) *Caller {
	p, err := Read("policy.toml", []byte(thousandRules()), Options{Protocols: refProtocols})
	if err != nil {
		tb.Fatal(err)
	}
	return p.For(Who{User: "user200", Groups: []string{"group1", "group3"}, From: netip.MustParseAddr("172.16.2.9")})
}

var benchmarkRequests = map[string]Request{
	"name":    {Command: "connect", Name: "www.dept801.example.com", Addr: netip.MustParseAddr("203.0.113.7"), Port: 443, Protocol: "http", Time: time.Unix(1e9, 0)},
	"network": {Command: "connect", Addr: netip.MustParseAddr("10.3.50.9"), Port: 8080, Protocol: "http", Time: time.Unix(1e9, 0)},
	"last":    {Command: "connect", Name: "www.elsewhere.example.org", Addr: netip.MustParseAddr("203.0.113.7"), Port: 443, Protocol: "http", Time: time.Unix(1e9, 0)},
}

func BenchmarkDecide(b *testing.B) {
	c := benchmarkPolicy(b)
	for name, q := range benchmarkRequests {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if c.Decide(q).Outcome != Allow {
					b.Fatal("it is denied")
				}
			}
		})
	}
}

func TestADecisionAllocatesNothing(t *testing.T) {
	c := benchmarkPolicy(t)
	for name, q := range benchmarkRequests {
		if n := testing.AllocsPerRun(100, func() { c.Decide(q) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
