package server

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestOpenFlowsAreThereToLookAt(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	port := echoTarget(t)
	streams := []interface{ Close() error }{}
	for i := range 3 {
		stream := g.connect(port)
		exchange(t, stream, strings.Repeat("x", i+1))
		streams = append(streams, stream)
	}
	waitFor(t, func() bool { return h.Totals().Up == 6 }) // the answer may be faster than the count
	flows, all := h.Flows(10)
	if len(flows) != 3 || all != 3 || h.Totals().Open != 3 {
		t.Fatalf("there are %d of %d flows, and %+v", len(flows), all, h.Totals())
	}
	f := flows[0]
	if f.User != "anna" || f.Device == "" || f.Command != "connect" || f.Target != fmt.Sprintf("127.0.0.1:%d", port) || f.Up != f.Down || f.Up == 0 || f.ID == flows[1].ID {
		t.Errorf("one is %+v", f)
	}
	if flows, all = h.Flows(2); len(flows) != 2 || all != 3 || flows[0].Up != 3 || flows[1].Up != 2 {
		t.Errorf("the two with the most bytes are %+v of %d", flows, all)
	}
	for _, s := range streams {
		s.Close()
	}
	waitFor(t, func() bool { return h.Totals().Open == 0 && h.Totals().Allowed == 3 })
	if flows, all = h.Flows(2); len(flows) != 0 || all != 0 {
		t.Errorf("there are still %+v", flows)
	}
}

func TestLastRefusalsAreThereToLookAt(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	for range 2 {
		if _, code := g.request(socks.Connect, socks.Addr{Name: "169.254.169.254", Port: 80}); code != socks.NotAllowed {
			t.Fatal(code)
		}
	}
	h.Record(Attempt{User: "bob", Method: "password", Door: ":1080", Source: netip.MustParseAddrPort("192.0.2.7:4711"), Err: errors.New("wrong \x1b[2J password")})
	waitFor(t, func() bool { return len(h.Refusals()) == 2 })
	all := h.Refusals()
	var flow, login Refusal
	for _, r := range all {
		if r.Command == "login" {
			login = r
		} else {
			flow = r
		}
	}
	if flow.User != "anna" || flow.Target != "169.254.169.254:80" || flow.Times != 2 || flow.Why == "" || time.Since(flow.Time) > patience {
		t.Errorf("the flow's is %+v", flow)
	}
	if login.User != "bob" || login.Target != ":1080" || login.Source.String() != "192.0.2.7" || login.Why != `wrong \x1b[2J password` {
		t.Errorf("the login's is %+v", login)
	}
	if got := h.Totals(); got.Refused != 2 || got.Denied != 1 {
		t.Errorf("in all there are %+v", got)
	}
}

func TestOnlySoManyRefusalsAreRemembered(t *testing.T) {
	var r refusals
	for i := range 10 * maxRefusals {
		r.add(Refusal{Target: fmt.Sprint(i, strings.Repeat("x", 10_000))})
	}
	if len(r.all) != maxRefusals || cap(r.all) > 2*maxRefusals || len(r.all[0].Target) > 2000 {
		t.Errorf("%d are remembered in room for %d, with %d bytes each", len(r.all), cap(r.all), len(r.all[0].Target))
	}
	if !strings.HasPrefix(r.all[0].Target, fmt.Sprint(9*maxRefusals)) {
		t.Errorf("the oldest is %.10q", r.all[0].Target)
	}
}
