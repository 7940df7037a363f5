package server

import (
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/tunnel/socks"
)

// limited is a rule that allows everything, with a limit.
func limited(t *testing.T, limit string) string {
	t.Helper()
	return "[[rule]]\nname = \"limited\"\n" + limit + "\nthen = \"allow\"\n"
}

func TestARuleLimitsHowLongAFlowLasts(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	h.SetPolicy(rules(t, limited(t, `total = "50ms"`)))
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", echoTarget(t)))
	h.must(err)
	conn.SetDeadline(time.Now().Add(patience))
	for err == nil {
		_, err = io.WriteString(conn, "x")
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
	}
	in := newMailbox()
	a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, in)
	h.must(err)
	receive(t, a.Done(), "the end of the association")
	a.Close()
	conn.Close()
	v.Close()
	for _, r := range end(audit.Flow) {
		if r.End != "its time is over" || r.Duration < 50*time.Millisecond {
			t.Errorf("record %+v", r)
		}
	}
}

func TestAnIdleFlowEndsAndABusyOneDoesNot(t *testing.T) {
	h := newHouse(t, nil)
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	port := echoTarget(t)
	busy, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port))
	h.must(err)
	idle, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port))
	h.must(err)
	h.SetPolicy(rules(t, limited(t, `idle = "300ms"`))) // for those that are there, too
	ended := make(chan error, 1)
	go func() {
		_, err := idle.Read(make([]byte, 1))
		ended <- err
	}()
	for over := false; !over; {
		exchange(t, busy, "hello")
		select {
		case err := <-ended:
			if over = true; err == nil {
				t.Error("the idle flow goes on")
			}
		case <-time.After(20 * time.Millisecond):
		}
	}
	exchange(t, busy, "hello")
}

func TestAUserHasSoManyFlowsByARule(t *testing.T) {
	port, other := echoTarget(t), echoTarget(t)
	h := newHouse(t, func(c *Config) {
		c.Policy = rules(t, fmt.Sprintf("[[rule]]\nports = [\"%d\"]\nthen = \"allow\"\n", other)+limited(t, "max_flows = 2"))
	})
	bob, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer bob.Close()
	anna, err := h.Visit(t.Context(), Visitor{User: "anna"})
	h.must(err)
	defer anna.Close()
	var last io.Closer
	for range 2 {
		conn, _, err := bob.Connect(t.Context(), connectTo(t, "127.0.0.1", port))
		h.must(err)
		last = conn
	}
	for range 10 {
		if _, _, err := bob.Connect(t.Context(), connectTo(t, "127.0.0.1", port)); socks.CodeOf(err) != socks.NotAllowed {
			t.Fatalf("one more: %v", err)
		}
	}
	for v, to := range map[*Visit]uint16{bob: other, anna: port} {
		if _, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", to)); err != nil {
			t.Errorf("by another rule, or somebody else: %v", err)
		}
	}
	h.must(last.Close())
	if _, _, err := bob.Connect(t.Context(), connectTo(t, "127.0.0.1", port)); err != nil {
		t.Errorf("in place of one that has ended: %v", err)
	}
	bob.Close()
	anna.Close()
	if len(h.ruleFlows) > 0 {
		t.Errorf("%v are counted, and there are none", h.ruleFlows)
	}
}

// An association goes to many destinations by many rules, and keeps to the limits of the
// first that has some.
func TestAnAssociationKeepsToTheLimitsOfARuleForOneDestination(t *testing.T) {
	at := udpEcho(t, "127.0.0.1:0")
	rule := fmt.Sprintf("[[rule]]\nname = \"little\"\nports = [\"%d\"]\nprotocols = [\"unknown\"]\nquota_per_day = \"1 kB\"\nmax_flows = 1\nthen = \"allow\"\n", at.Port)
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, rule) })
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	in, others := newMailbox(), newMailbox()
	a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, in)
	h.must(err)
	defer a.Close()
	b, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, others)
	h.must(err)
	defer b.Close()
	a.Send(to(at, "hello, it is me"))
	in.next(t)
	b.Send(to(at, "it is one too many"))
	a.Send(to(at, string(make([]byte, 1200))))
	in.next(t)
	receive(t, a.Done(), "the end of what has used its quota up")
	if len(others.mail) > 0 {
		t.Error("an association was one too many, and got an answer")
	}
}

func TestAssociationsKeepToTheLimitsOfARuleThatIsReadAgain(t *testing.T) {
	text := "[[rule]]\nname = \"local\"\nnetworks = [\"127.0.0.0/8\"]\nthen = \"allow\"\n"
	h := newHouse(t, func(c *Config) {
		c.Policy = rules(t, text+"idle = \"1h\"\nquota_per_day = \"1 GB\"\nceiling_up = \"1 Mbit/s\"\n")
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, newMailbox())
	h.must(err)
	defer a.Close()
	f := v.all()[0]
	to := netip.MustParseAddrPort("127.0.0.1:9")
	h.must(f.permit("", to))
	if f.limits.limit.Idle != time.Hour || f.ration == nil || f.part.share.group.name != "local" {
		t.Errorf("it keeps to %+v and %+v", f.limits.limit, f.ration)
	}
	h.SetPolicy(rules(t, text+"idle = \"2h\"\nquota_per_month = \"1 GB\"\n"))
	h.must(f.permit("", to))
	if f.limits.limit.Idle != 2*time.Hour || f.ration == nil || f.ration.rule.Limit.QuotaPerDay != 0 || f.part.share.group.name != "" {
		t.Errorf("it keeps to %+v and %+v", f.limits.limit, f.ration)
	}
	h.SetPolicy(rules(t, text))
	h.must(f.permit("", to))
	if !f.limits.none() || f.ration != nil {
		t.Errorf("without limits it keeps to %+v and %+v", f.limits.limit, f.ration)
	}
}
