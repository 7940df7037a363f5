package server

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// recordedHouse is a house that records what happens in a directory. What end gives
// is there after everything has ended.
func recordedHouse(t *testing.T, strict bool) (h *house, dir string, end func(kinds ...audit.Kind) []audit.Record) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "audit")
	w, err := audit.Open(t.Context(), audit.Config{Dir: dir, Exit: "exit.example.org", Strict: strict, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d := decide.New(slog.New(slog.DiscardHandler)) // asks nobody
	t.Cleanup(d.Close)
	h = newHouse(t, func(c *Config) { c.Audit, c.Decider = w, d })
	h.running.Go(func() { h.must(w.Serve(h.ctx)) })
	closed := false
	t.Cleanup(func() {
		if !closed {
			h.stop()
			_ = w.Close() // the test has done something to the files
		}
	})
	return h, dir, func(kinds ...audit.Kind) (all []audit.Record) {
		t.Helper()
		closed = true
		h.stop()
		h.must(w.Close())
		for r, err := range audit.NewReader(dir).Records(t.Context(), audit.Query{Kinds: kinds}) {
			h.must(err)
			all = append(all, r)
		}
		report, err := audit.Verify(t.Context(), dir, audit.Head{})
		h.must(err)
		if !report.Sound() || report.Open > 0 {
			t.Errorf("the warehouse has %d open records, and these problems: %q", report.Open, report.Problems)
		}
		return all
	}
}

// TestWhatTheKernelTakesAtOnceIsHeard has all but the first byte come while nobody reads the stream.
func TestWhatTheKernelTakesAtOnceIsHeard(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	stream := h.attach(h.device("anna")).connect(echoTarget(t))
	for _, word := range []string{httpRequest[:1], httpRequest[1:]} {
		exchange(t, stream, word)
	}
	stream.Close()
	if all := end(audit.Flow); len(all) != 1 || all[0].Protocol != "http" || all[0].Up != int64(len(httpRequest)) {
		t.Errorf("on record are %+v", all)
	}
}

// TestNewRuleIsAskedBeforeTheKernelTakesMore has a flow that no rule listened to say what the new
// one forbids.
func TestNewRuleIsAskedBeforeTheKernelTakesMore(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	stream := h.attach(h.device("anna")).connect(echoTarget(t))
	exchange(t, stream, sshBanner[:1])
	h.SetPolicy(rules(t, noSSH))
	_, err := io.WriteString(stream, sshBanner[1:])
	h.must(err)
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrReset) {
		t.Errorf("Read gives %v, want a reset", err)
	}
	stream.Close()
	if all := end(audit.Flow); len(all) != 1 || all[0].Protocol != "ssh" || all[0].Up != 1 {
		t.Errorf("on record are %+v", all)
	}
}

func TestFlowIsOnRecordWithAllThatIsKnownOfIt(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	g := h.attach(h.device("anna"))
	echo := onLoopback(echoTarget(t))
	stream, code := g.request(socks.Connect, echo)
	if code != socks.Succeeded {
		t.Fatal(code)
	}
	exchange(t, stream, "hello")
	h.must(stream.CloseWrite())
	if _, err := stream.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	stream.Close()
	if _, code = g.request(socks.Connect, socks.Addr{Name: "169.254.169.254", Port: 80}); code != socks.NotAllowed {
		t.Fatal(code)
	}
	all := end(audit.Flow)
	if len(all) != 2 {
		t.Fatalf("there are %+v", all)
	}
	if lines := h.log.find(t, "flow ended"); len(lines) > 0 {
		t.Errorf("the log says it, too: %v", lines)
	}
	// They may have ended in any order.
	if all[0].Decision == audit.Refused {
		all[0], all[1] = all[1], all[0]
	}
	f, r := all[0], all[1]
	if f.User != "anna" || f.Exit != "exit.example.org" || f.Session == "" || f.Device == "" || f.Method != "device" || f.Dialect != "socks6" ||
		f.Command != "connect" || f.Address != echo.IP || f.Port != echo.Port || f.Up != 5 || f.Down != 5 || f.Decision != audit.Allowed ||
		f.Connect <= 0 || f.FirstByte < f.Connect || f.Duration < 0 || time.Since(f.Begin) > patience || f.End == "" {
		t.Errorf("the flow is %+v", f)
	}
	if r.Address.String() != "169.254.169.254" || r.Decision != audit.Refused || r.End != "not allowed" || r.Up+r.Down != 0 {
		t.Errorf("the refused flow is %+v", r)
	}
}

func TestPortsAndLookUpsAreOnRecord(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	v, err := h.Visit(t.Context(), Visitor{User: "bob", Came: func() policy.Who { return policy.Who{Door: ":1080", Method: "password"} }})
	h.must(err)
	source := netip.MustParseAddrPort("192.0.2.7:4711")
	binding, reply, err := v.Bind(t.Context(), socks.Request{Command: socks.Bind, Dialect: socks.SOCKS5, Source: source, Dst: onLoopback(0)})
	h.must(err)
	peer, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(onLoopback(0).IP, reply.Bound.Port())))
	h.must(err)
	defer peer.Close()
	conn, _, err := binding.Accept(t.Context())
	h.must(err)
	conn.Close()
	binding.Close()
	association, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate, Dialect: socks.SOCKS5, Source: source}, newMailbox())
	h.must(err)
	association.Close()
	asks := v.MayResolve(socks.Request{Dialect: socks.WireGuard, Source: source})
	h.must(asks.Permits("name.example.org", netip.AddrPortFrom(netip.Addr{}, 53)))
	for _, target := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2"} {
		h.must(ping(v, socks.Request{Dialect: socks.WireGuard, Source: source}, target))
	}
	v.Close()
	all := end()
	if len(all) != 5 {
		t.Fatalf("there are %+v", all)
	}
	from := peer.LocalAddr().(*net.TCPAddr).AddrPort()
	if b := all[0]; b.Command != "bind" || b.Port != from.Port() || b.Door != ":1080" || b.Method != "password" || b.Source != source.Addr() || b.SourcePort != 4711 {
		t.Errorf("the BIND is %+v", b)
	}
	if r := all[2]; r.Command != "resolve" || r.Name != "name.example.org" || r.Dialect != "wireguard" || r.User != "bob" {
		t.Errorf("the look-up is %+v", r)
	}
	for i, target := range []string{"192.0.2.1", "192.0.2.2"} {
		if p := all[3+i]; p.Command != "ping" || p.Address.String() != target || p.User != "bob" || p.SourcePort != 4711 || p.End != "closed" {
			t.Errorf("a ping is %+v", p)
		}
	}
	if a := all[1]; a.Command != "associate" || a.User != "bob" || a.End != "closed" {
		t.Errorf("the association is %+v", a)
	}
}

func TestSessionsAndAttemptsAreOnRecord(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	g := h.attach(h.device("anna"))
	stream, _ := g.request(socks.Connect, onLoopback(echoTarget(t)))
	exchange(t, stream, "hello")
	stream.Close()
	h.Record(Attempt{User: "bob", Method: "password", Door: ":1080", Source: netip.MustParseAddrPort("192.0.2.7:4711"), Err: errors.New("no")})
	h.Record(Attempt{User: "bob", Method: "password"})
	h.Record(Attempt{User: "pass word\n", Method: "password", Err: errors.New("no")})
	all := end(audit.Session, audit.Login, audit.Failure)
	ways := make(map[audit.Kind]int)
	for _, r := range all {
		ways[r.Kind]++
		if r.Kind == audit.Session && (r.User != "anna" || r.Up == 0 || r.Duration < 0) || r.Kind == audit.Failure && r.End != "no" || r.User == "pass word\n" {
			t.Errorf("there is %+v", r)
		}
	}
	if ways[audit.Session] != 1 || ways[audit.Login] != 1 || ways[audit.Failure] != 2 {
		t.Errorf("there are %v", ways)
	}
}

func TestSessionsThatHaveMovedAreOnRecordAsSuch(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	x := h.attachLanes(h.device("anna"), 2)
	stream := x.lanes[0].connect(echoTarget(t))
	for number := range x.lanes {
		x.resume(byte(number), "192.0.2.8:4712")
	}
	h.status("session that has moved", func(st Status) bool { return st.Resumes == 2 })
	exchange(t, stream, "hello")
	x.lanes[1].Close(0)
	h.status("session that has lost a lane", func(st Status) bool { return st.Lanes == 1 && st.Resumes == 2 })
	for _, r := range end(audit.Session, audit.Flow) {
		if r.Kind == audit.Session && r.Resumes != 2 || r.Kind == audit.Flow && r.Resumes != 1 {
			t.Errorf("there is %+v", r)
		}
	}
}

func TestWhatCannotBeRecordedStrictlyEndsAndIsRefused(t *testing.T) {
	h, dir, _ := recordedHouse(t, true)
	g := h.attach(h.device("anna"))
	stream, code := g.request(socks.Connect, onLoopback(echoTarget(t)))
	if code != socks.Succeeded {
		t.Fatal(code)
	}
	exchange(t, stream, "hello")
	h.must(os.RemoveAll(dir))
	stream.SetDeadline(time.Now().Add(patience))
	if n, err := stream.Read(make([]byte, 1)); n != 0 || !errors.Is(err, tunnel.ErrReset) && !errors.Is(err, tunnel.ErrSessionLost) {
		t.Errorf("a flow that cannot be recorded gives %d, %v", n, err)
	}
	receive(t, g.served, "the end of the session")
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	if _, reply, err := v.Connect(t.Context(), socks.Request{Command: socks.Connect, Dst: onLoopback(echoTarget(t))}); !errors.Is(err, audit.ErrNotRecorded) || reply.Code != socks.GeneralFailure {
		t.Errorf("a flow that cannot be recorded: %v, %v", reply.Code, err)
	}
}

// ping asks whether somebody may ping a target that the exit would.
func ping(v *Visit, r socks.Request, target string) error {
	to := netip.MustParseAddr(target)
	return v.Ping(r, to, func(r socks.Request) error { return r.Permits("", netip.AddrPortFrom(to, 0)) })
}

func TestPingsThatTheExitDeniesAreOnRecordAsThat(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	h.SetPolicy(rules(t, leveled("", "none")))
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	target := netip.MustParseAddr("169.254.169.254")
	for range 2 {
		if v.Ping(socks.Request{}, target, func(r socks.Request) error { return new(Exit).Echo(t.Context(), r, target, nil) }) == nil {
			t.Error("a ping is answered")
		}
	}
	v.Close()
	if all := end(audit.Flow); len(all) != 1 || all[0].Decision != audit.Refused || all[0].Address != target {
		t.Errorf("on record is %+v", all)
	}
	if all := h.Refusals(); len(all) != 1 || all[0].Command != "ping" {
		t.Errorf("refused are %+v", all)
	}
}

func TestRefusedPingsAreThereToLookAtWithoutRecords(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, "") })
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	if ping(v, socks.Request{}, "192.0.2.1") == nil {
		t.Error("a ping that no rule allows")
	}
	if all := h.Refusals(); len(all) != 1 || all[0].Target != "192.0.2.1" {
		t.Errorf("refused are %+v", all)
	}
}

// Without rules nobody asks what is spoken, and nothing is held back for it.
func TestWhatIsSpokenIsOnRecordWithoutRules(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	tcp, udp := onLoopback(echoTarget(t)), udpEcho(t, "127.0.0.1:0")
	for _, said := range []string{httpRequest, "this is no protocol"} {
		for _, early := range []string{"", said[:7], said} { // what comes with the request
			conn, _, err := v.Connect(t.Context(), socks.Request{Command: socks.Connect, Dst: tcp, Initial: []byte(early)})
			h.must(err)
			_, err = io.WriteString(conn, said[len(early):])
			h.must(err)
			_, err = io.ReadFull(conn, make([]byte, len(said)))
			h.must(err)
			conn.Close()
		}
	}
	for _, said := range []string{string(dnsQueryFor(t, "www.example.com.", dnsmessage.TypeA)), "this is no protocol"} {
		in := newMailbox()
		a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, in)
		h.must(err)
		for range maxNoted + 1 {
			a.Send(to(udp, said))
			in.next(t)
		}
		if open, _ := h.Flows(1); open[0].Protocol == "" {
			t.Errorf("%+v is open", open[0])
		}
		a.Close()
	}
	v.Close()
	h.wants(`adit_flows_total{decision="allowed",protocol="network"} 1`, `adit_flows_total{decision="allowed",protocol="web"} 3`,
		`adit_flows_total{decision="allowed",protocol="unknown"} 4`)
	got := make(map[string]int)
	for _, r := range end(audit.Flow) {
		got[r.Command+" "+r.Protocol+" "+r.Host]++
	}
	want := map[string]int{"connect http www.example.com": 3, "connect unknown ": 3, "associate dns ": 1, "associate unknown ": 1}
	if !maps.Equal(got, want) {
		t.Errorf("on record are %v, want %v", got, want)
	}
}
