package server

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/adit-net/adit/server/metrics"
	"github.com/adit-net/adit/server/shape"
	"github.com/adit-net/adit/server/sniff"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/socks"
)

// page is what a house says to Prometheus.
func (h *house) page() string {
	var p metrics.Page
	h.Metrics(&p)
	return string(p.Text())
}

// wants waits until there are all of some lines.
func (h *house) wants(lines ...string) {
	h.t.Helper()
	for _, line := range lines {
		waitFor(h.t, func() bool { return strings.Contains(h.page(), "\n"+line+"\n") })
	}
}

func TestMetricsCountWhatFlowsDo(t *testing.T) {
	h, _, _ := recordedHouse(t, false)
	g := h.attach(h.device("anna"))
	stream, code := g.request(socks.Connect, onLoopback(echoTarget(t)))
	if code != socks.Succeeded {
		t.Fatal(code)
	}
	exchange(t, stream, "hello")
	h.wants(`adit_sessions{state="attached"} 1`, `adit_sessions{state="detached"} 0`, `adit_logins_total{method="device",result="accepted"} 1`,
		`adit_flows{command="connect"} 1`, `adit_flow_bytes_total{direction="up"} 5`, `adit_flow_bytes_total{direction="down"} 5`, `adit_connect_seconds_count 1`)
	stream.Close()
	g.request(socks.Connect, socks.Addr{Name: "169.254.169.254", Port: 80})
	h.wants(`adit_flows{command="connect"} 0`, `adit_flows_total{decision="allowed",protocol="unknown"} 1`, `adit_flows_total{decision="refused",protocol="unknown"} 1`,
		`adit_audit_records_total 2`, `adit_audit_lost_records_total 0`, `adit_audit_open_records 1`, `adit_audit_failing 0`)
}

func TestMetricsCountCarriersAndHowLongTheyWereMissing(t *testing.T) {
	h := newHouse(t, nil)
	x := h.attachLanes(h.device("anna"), 1)
	exchange(t, x.lanes[0].connect(echoTarget(t)), "hello")
	h.wants(`adit_carriers{carrier="other"} 1`)
	x.lanes[0].link.Cut()
	h.wants(`adit_carriers{carrier="other"} 0`, `adit_sessions{state="attached"} 0`, `adit_sessions{state="detached"} 1`)
	x.resume(0, "192.0.2.9:4711")
	h.wants(`adit_carriers{carrier="other"} 1`, `adit_carriers_total{carrier="other"} 2`, `adit_sessions{state="attached"} 1`,
		`adit_resume_seconds_count 1`, `adit_logins_total{method="device",result="accepted"} 1`)
}

func TestMetricsCountWhoIsNotLetIn(t *testing.T) {
	h := newHouse(t, nil)
	if answer, _ := h.hello(h.newKey()); answer != nil {
		t.Error("a stranger got an answer")
	}
	revoked := h.device("anna")
	devices, err := h.store.Devices(t.Context(), "anna")
	h.must(err)
	h.must(h.store.RevokeDevice(t.Context(), devices[0].ID().String()))
	h.hello(revoked)
	for _, err := range []error{users.ErrPassword, users.ErrPasswordLimit, nil} {
		h.Record(Attempt{User: "anna", Method: "password", Source: netip.MustParseAddrPort("192.0.2.7:4711"), Err: err})
	}
	h.Record(Attempt{Method: "made up by a stranger", Err: users.ErrPassword})
	h.wants(`adit_logins_total{method="device",result="denied"} 2`, `adit_logins_total{method="password",result="denied"} 2`,
		`adit_logins_total{method="password",result="accepted"} 1`, `adit_logins_total{method="other",result="denied"} 1`)
	if strings.Contains(h.page(), "stranger") {
		t.Error("a stranger has made a label")
	}
}

func TestMetricsTellHowLongBandwidthIsWaitedFor(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Bandwidth.Total[shape.Down].Ceiling = 8 * shape.Mbit })
	g := h.attach(h.device("anna"))
	bulk := target(t, func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 200<<10)) })
	stream := g.connect(bulk)
	expectBytes(t, stream, 200<<10)
	h.wants(`adit_bandwidth_waiting 0`)
	if !strings.Contains(h.page(), "\nadit_bandwidth_delay_seconds_count ") || strings.Contains(h.page(), "\nadit_bandwidth_delay_seconds_count 0\n") {
		t.Errorf("nothing has waited:\n%s", h.page())
	}
}

func expectBytes(t *testing.T, c net.Conn, n int) {
	t.Helper()
	for got, b := 0, make([]byte, 32<<10); got < n; {
		k, err := c.Read(b)
		if err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
		got += k
	}
}

// What was never seen is there as a zero, and no protocol is without a group.
func TestMetricsHaveAllTheirSamplesFromTheStart(t *testing.T) {
	h := newHouse(t, nil)
	before := len(strings.Split(h.page(), "\n"))
	for p := range sniff.Protocols() {
		for _, decision := range decisionLabels {
			h.counts.ends(decision, p.Name)
		}
	}
	h.counts.ends(flowAllowed, "no protocol")
	h.counts.attempted("no method", true)
	if after := len(strings.Split(h.page(), "\n")); after != before {
		t.Errorf("there are %d lines, and were %d", after, before)
	}
}
