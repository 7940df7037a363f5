package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestNamesOfOneHashAreToldApart(t *testing.T) {
	x := newNameIndex(&sets{rules: 1})
	x.add(0, words[pattern]{is: []pattern{{text: "oa.example", kind: below}}})
	x.ready()
	if x.table[x.place(hashOf("oa.example"))] == nil || hashOf("oa.example") != hashOf("1c.example") {
		t.Fatal("the names have different hashes")
	}
	for name, want := range map[string]bool{
		"oa.example": true, "www.oa.example": true, "1c.example": false, "www.1c.example": false, "example": false, "oa": false,
	} {
		if got := x.find(name).has(0); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func hashOf(name string) (hash uint64) {
	for i := len(name) - 1; i >= 0; i-- {
		hash = nameHash(hash, name[i])
	}
	return hash
}

// There are more rules than go in one chunk, and more clauses than are taken at once.
func TestEachOfManyRulesDecides(t *testing.T) {
	var b strings.Builder
	const count = 2*perChunk + 70
	for i := range count {
		fmt.Fprintf(&b, "[[rule]]\nname = \"%d\"\nnames = [\".host%d.example\"]\nnetworks = [\"10.%d.%d.0/24\"]\nports = [\"%d\"]\n", i, i, i>>8, i&0xff, 1+i)
		b.WriteString("protocols = [\"http\"]\ndialects = [\"socks5\"]\nasked = [\"name\"]\nsigns = [\"!doubtful\"]\ncommands = [\"connect\"]\nthen = \"allow\"\n")
	}
	p, err := Read("policy.toml", []byte(b.String()), Options{Protocols: refProtocols})
	if err != nil {
		t.Fatal(err)
	}
	c := p.For(Who{})
	for i := range count {
		q := Request{
			Command: "connect", Dialect: "socks5", Name: fmt.Sprintf("www.host%d.example", i), Protocol: "http",
			Addr: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 9}), Port: uint16(1 + i),
		}
		if d := c.Decide(q); d.Outcome != Allow || d.Rule.Name != fmt.Sprint(i) {
			t.Fatalf("%d: %s", i, d)
		}
		q.Port++
		if d := c.Decide(q); d.Outcome != Deny || d.Rule != nil {
			t.Fatalf("%d: %s", i, d)
		}
	}
}
