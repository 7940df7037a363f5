package server

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/sniff"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

func rules(t testing.TB, text string) *policy.Policy {
	t.Helper()
	known := make(map[string]string)
	for info := range sniff.Protocols() {
		known[string(info.Name)] = string(info.Group)
	}
	p, err := policy.Read("policy.toml", []byte(text), policy.Options{Protocols: known})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWithoutARuleNothingIsAllowed(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, "") })
	g := h.attach(h.device("anna"))
	for _, command := range []socks.Command{socks.Connect, socks.Bind, socks.Associate} {
		if _, code := g.request(command, onLoopback(80)); code != socks.NotAllowed {
			t.Errorf("command %d: %v", command, code)
		}
	}
}

func TestRulesKnowWhoAsksAndHow(t *testing.T) {
	port := echoTarget(t)
	h := newHouse(t, nil)
	anna, bob := h.attach(h.device("anna")), h.attach(h.device("bob"))
	for _, clause := range []string{
		`users = ["anna"]`, `groups = ["staff"]`, `from = ["192.0.2.7"]`, `doors = ["session"]`, `methods = ["device"]`,
		`dialects = ["socks6"]`, `commands = ["connect"]`, fmt.Sprintf("ports = [\"%d\"]", port), `networks = ["127.0.0.0/8"]`,
		`asked = ["address"]`, `devices = ["laptop"]`, `protection = ["none"]`,
	} {
		h.SetPolicy(rules(t, "[groups]\nstaff = [\"anna\"]\n[[rule]]\nusers = [\"anna\"]\n"+notTwice(clause)+"\nthen = \"allow\"\n"))
		exchange(t, anna.connect(port), "hello")
		if _, code := bob.request(socks.Connect, onLoopback(port)); code != socks.NotAllowed {
			t.Errorf("%s: bob gets %v", clause, code)
		}
		h.SetPolicy(rules(t, "[[rule]]\n"+clause+"\nthen = \"deny\"\n[groups]\nstaff = [\"anna\"]\n"))
		if _, code := anna.request(socks.Connect, onLoopback(port)); code != socks.NotAllowed {
			t.Errorf("%s: anna gets %v", clause, code)
		}
	}
}

func notTwice(clause string) string {
	if clause == `users = ["anna"]` {
		return ""
	}
	return clause
}

func TestGroupsOfTheStoreCountAsSoonAsTheyChange(t *testing.T) {
	port := echoTarget(t)
	h := newHouse(t, func(c *Config) {
		c.Policy = rules(t, "[[rule]]\ngroups = [\"visitors\"]\nthen = \"deny\"\n[[rule]]\nthen = \"allow\"\n")
	})
	conn := h.attach(h.device("anna")).connect(port)
	exchange(t, conn, "hello")
	token, key := keys.NewToken(), h.newKey()
	h.must(h.store.Invite(t.Context(), "anna", token, time.Now().Add(time.Hour), "visitors"))
	_, err := h.store.Join(t.Context(), token.Bytes(), users.Device{Key: key.Public(), WireGuard: key.WireGuardPublic(), Name: "phone"})
	h.must(err)
	wantBroken(t, conn)
}

// wantBroken wants a stream to be reset soon.
func wantBroken(t *testing.T, conn *tunnel.Stream) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	began := time.Now()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, tunnel.ErrReset) {
		t.Errorf("Read gives %d, %v", n, err)
	}
	if after := time.Since(began); after > 10*time.Second {
		t.Errorf("the flow lived on for %s", after)
	}
}

func TestNewRulesBreakTheFlowsThatTheyForbidAndNoOthers(t *testing.T) {
	first, second := echoTarget(t), echoTarget(t)
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	stays, goes := g.connect(first), g.connect(second)
	exchange(t, stays, "hello")
	exchange(t, goes, "hello")
	h.SetPolicy(rules(t, fmt.Sprintf("[[rule]]\nname = \"first\"\nports = [\"%d\"]\nthen = \"allow\"\n", first)))
	wantBroken(t, goes)
	exchange(t, stays, "still here")
	stays.Close()
	waitFor(t, func() bool {
		for _, line := range h.log.find(t, "flow ended") {
			if line["rule"] == "first" {
				return true
			}
		}
		return false
	})
	h.SetPolicy(nil)
	exchange(t, g.connect(second), "again")
}

func TestNewRulesEndPortsThatTheyForbid(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, newMailbox())
	h.must(err)
	defer a.Close()
	b, _, err := v.Bind(t.Context(), socks.Request{Command: socks.Bind})
	h.must(err)
	defer b.Close()
	h.SetPolicy(rules(t, "[[rule]]\nusers = [\"anna\"]\nthen = \"allow\"\n"))
	receive(t, a.Done(), "the end of the association")
	if _, _, err := b.Accept(t.Context()); socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("Accept gives %v", err)
	}
	exchange(t, g.connect(echoTarget(t)), "hello")
}

func TestNameRulesJudgeTheNameAndAddressRulesTheAddressThatIsDialled(t *testing.T) {
	port, _ := echo(t, "127.0.0.1:0")
	resolver := &answers{addrs: addrs("127.0.0.2", "127.0.0.1")}
	h := newHouse(t, func(c *Config) {
		c.Relay = &Exit{Allow: toLoopback, Resolver: resolver}
		c.Policy = rules(t, "[[rule]]\nnames = [\"good.example\"]\nnetworks = [\"127.0.0.1\"]\nthen = \"allow\"\n")
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	conn, _, err := v.Connect(t.Context(), connectTo(t, "GOOD.example.", port))
	h.must(err)
	if at := addrPort(conn.RemoteAddr()); at.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("connected to %s", at)
	}
	roundTrip(t, conn)
	if resolver.asked != 1 {
		t.Errorf("%d look-ups", resolver.asked)
	}
	for _, host := range []string{"bad.example", "127.0.0.1", "127.0.0.2", "::ffff:127.0.0.1"} {
		if _, _, err := v.Connect(t.Context(), connectTo(t, host, port)); socks.CodeOf(err) != socks.NotAllowed {
			t.Errorf("%s: %v", host, err)
		}
	}
	if resolver.asked != 1 {
		t.Error("a name was looked up that is not allowed")
	}
	resolver.addrs = addrs("127.0.0.2")
	if _, _, err := v.Connect(t.Context(), connectTo(t, "good.example", port)); socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("at a forbidden address: %v", err)
	}
}

func TestRulesSeeThroughSpellingsOfAddresses(t *testing.T) {
	h := newHouse(t, func(c *Config) {
		c.Policy = rules(t, "[[rule]]\nnetworks = [\"192.0.2.0/24\", \"2002::/16\"]\nthen = \"deny\"\n[[rule]]\nnetworks = [\"0.0.0.0/0\", \"2001:db8::/32\"]\nthen = \"allow\"\n")
	})
	c := newCaller(h.Server, "anna", func() policy.Who { return policy.Who{} }, h.cfg.Log)
	wish := c.petition(socks.Request{Command: socks.Connect})
	for at, want := range map[string]bool{
		"192.0.2.7": false, "::ffff:192.0.2.7": false, "64:ff9b::192.0.2.7": false, "2002:c000:207::1": false, "198.51.100.7": true,
		"64:ff9b::198.51.100.7": true, "2001:db8::1": true, "2001:db9::1": false, "2001:db8::5efe:192.0.2.7": false, "2001:db8::5efe:198.51.100.7": true,
	} {
		for _, name := range []string{"", "some.example"} {
			if err := wish.permit(name, netip.AddrPortFrom(netip.MustParseAddr(at), 443)); (err == nil) != want {
				t.Errorf("%s %s: %v", name, at, err)
			}
		}
		if err := wish.permit(at, netip.AddrPortFrom(netip.Addr{}, 443)); (err == nil) != want {
			t.Errorf("%s as a name: %v", at, err)
		}
	}
	for _, name := range []string{"127.1", "0x7f000001", "2130706433", "a b", "a..b"} {
		if wish.permit(name, netip.AddrPortFrom(netip.Addr{}, 443)) == nil {
			t.Errorf("%q is permitted", name)
		}
	}
}

func TestRulesJudgeNamesThatAreResolved(t *testing.T) {
	h := newHouse(t, func(c *Config) {
		c.Policy = rules(t, "[[rule]]\ncommands = [\"resolve\"]\nnames = [\".good.example\"]\nthen = \"allow\"\n[[rule]]\ncommands = [\"ping\"]\nnetworks = [\"127.0.0.0/8\"]\nthen = \"allow\"\n")
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob", Came: func() policy.Who { return policy.Who{Door: "wireguard"} }})
	h.must(err)
	defer v.Close()
	r := v.MayResolve(socks.Request{})
	if r.Permits("www.good.example.", netip.AddrPort{}) != nil || r.Permits("bad.example.", netip.AddrPort{}) == nil {
		t.Error("names are not judged")
	}
	if ping(v, socks.Request{}, "127.0.0.1") != nil || ping(v, socks.Request{}, "192.0.2.1") == nil {
		t.Error("pings are not judged")
	}
	// The exit's own name service is reached by somebody who may resolve something.
	conn, _, err := v.Connect(t.Context(), socks.Request{Command: socks.Connect, Dst: socks.Addr{IP: netip.IPv4Unspecified(), Port: 53}})
	h.must(err)
	conn.Close()
}

// A carrier that comes from elsewhere, or is protected otherwise, may forbid a flow.
func TestFlowsAreJudgedAgainWhenTheirUserChanges(t *testing.T) {
	h := newHouse(t, nil)
	var who atomic.Pointer[policy.Who]
	who.Store(&policy.Who{Protection: []string{"wireguard"}})
	v, err := h.Visit(t.Context(), Visitor{User: "bob", Came: func() policy.Who { return *who.Load() }})
	h.must(err)
	defer v.Close()
	h.SetPolicy(rules(t, "[[rule]]\nprotection = [\"wireguard\"]\nthen = \"allow\"\n"))
	port := echoTarget(t)
	conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port))
	h.must(err)
	exchange(t, conn, "hello")
	who.Store(&policy.Who{Protection: []string{"tls"}})
	v.judgeFlows()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the flow goes on")
	}
}
