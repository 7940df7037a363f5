package server

import (
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/tunnel/socks"
)

// leveled are rules of which those for ports that do not exist say how much goes on record.
func leveled(clause, record string) string {
	return "[[rule]]\n" + clause + "\nthen = \"allow\"\nrecord = \"" + record + "\"\n"
}

func TestARuleSaysHowMuchOfAFlowIsOnRecord(t *testing.T) {
	for level, want := range map[string]string{"none": "", "summary": "nowhere", "full": "127.0.0.1"} {
		for _, clause := range []string{"", `networks = ["127.0.0.1"]`, `protocols = ["unknown"]`} {
			h, _, end := recordedHouse(t, true)
			h.SetPolicy(rules(t, leveled(clause, level)+leveled("", "none")))
			stream := h.attach(h.device("anna")).connect(echoTarget(t))
			exchange(t, stream, "hello")
			stream.Close()
			var got []string
			for _, r := range end(audit.Flow) {
				if r.Up != 5 {
					t.Errorf("%d bytes are on record", r.Up)
				}
				address := "nowhere"
				if r.Address.IsValid() {
					address = r.Address.String()
				}
				got = append(got, address)
			}
			if text := strings.Join(got, "; "); text != want {
				t.Errorf("%s %s: on record is %q, want %q", clause, level, text, want)
			}
		}
	}
}

func TestWhatIsRefusedIsOnRecordWhateverARuleSays(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	h.SetPolicy(rules(t, leveled(`ports = ["1-1000"]`, "none")+leveled("users = [\"anna\"]\nmax_flows = 1", "none")))
	g := h.attach(h.device("anna"))
	port := echoTarget(t)
	first := g.connect(port)
	exchange(t, first, "hello")
	if _, code := g.request(socks.Connect, onLoopback(port)); code != socks.NotAllowed {
		t.Errorf("one too many: %v", code)
	}
	if _, code := g.request(socks.Connect, socks.Addr{Name: "169.254.169.254", Port: 80}); code != socks.NotAllowed {
		t.Errorf("a target that the exit denies: %v", code)
	}
	h.SetPolicy(rules(t, "")) // which forbids the first
	_, err := io.ReadAll(first)
	if err == nil {
		t.Error("the first is not cut")
	}
	all := end(audit.Flow)
	if len(all) != 3 {
		t.Fatalf("on record is %+v", all)
	}
	for _, r := range all {
		if r.Decision != audit.Refused || !r.Address.IsValid() && r.Name == "" {
			t.Errorf("on record is %+v", r)
		}
	}
}

func TestTheRuleThatWantsMostOfAnAssociationCounts(t *testing.T) {
	none, some := leveled(`networks = ["127.0.0.1"]`, "none"), leveled(`networks = ["127.0.0.2"]`, "summary")
	for _, c := range []struct {
		to   []string
		want int
	}{{nil, 1}, {[]string{"127.0.0.1"}, 0}, {[]string{"127.0.0.1", "127.0.0.2"}, 1}, {[]string{"127.0.0.2", "127.0.0.1"}, 1}} {
		h, _, end := recordedHouse(t, false)
		h.SetPolicy(rules(t, none+some))
		v, err := h.Visit(t.Context(), Visitor{User: "bob"})
		h.must(err)
		in := newMailbox()
		a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, in)
		h.must(err)
		for _, host := range c.to {
			a.Send(to(udpEcho(t, host+":0"), "hello"))
			in.next(t)
		}
		a.Close()
		v.Close()
		if all := end(audit.Flow); len(all) != c.want {
			t.Errorf("to %q: on record is %+v", c.to, all)
		}
	}
}

func TestLookUpsAreOnRecordAsRulesSay(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	h.SetPolicy(rules(t, leveled(`names = ["none.example"]`, "none")+leveled(`names = ["summary.example"]`, "summary")+leveled(`names = ["full.example"]`, "full")+
		leveled("names = [\"perhaps.example\"]\nnetworks = [\"192.0.2.0/24\"]", "none")))
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	asks := v.MayResolve(socks.Request{Dialect: socks.WireGuard})
	for _, name := range []string{"none", "summary", "full", "perhaps"} {
		h.must(asks.Permits(name+".example", netip.AddrPortFrom(netip.Addr{}, 53)))
	}
	if asks.Permits("other.example", netip.AddrPortFrom(netip.Addr{}, 53)) == nil {
		t.Error("a name is looked up that no rule allows")
	}
	v.Close()
	var names []string
	for _, r := range end(audit.Flow) {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, ","); got != ",full.example,,other.example" {
		t.Errorf("on record is %q", got)
	}
}
