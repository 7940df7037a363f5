package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// needsIPsec requires IPsec for ports of this host.
const needsIPsec = `
[[rule]]
name = "inside"
networks = ["127.0.0.0/8"]
require_ipsec = true
patience = "10m"
then = "allow"
`

// gateway is what IPsec does below a visitor.
type gateway struct {
	down atomic.Bool
	kept atomic.Int64 // how often the path was to be held to it
	lost atomic.Bool  // it cannot be
}

func (g *gateway) words() []string {
	if g.down.Load() {
		return nil
	}
	return []string{"ipsec:aes-gcm-128"}
}

func (g *gateway) keep() error {
	if g.lost.Load() {
		return errors.New("the socket is another kind of thing")
	}
	g.kept.Add(1)
	return nil
}

// visitBehind lets somebody in behind a gateway.
func (h *house) visitBehind(g *gateway) *Visit {
	h.t.Helper()
	v, err := h.Visit(h.t.Context(), Visitor{User: "bob", Keep: g.keep, Came: func() policy.Who { return policy.Who{Protection: g.words()} }})
	h.must(err)
	h.t.Cleanup(v.Close)
	return v
}

// set says whether the gateway does anything, and has the server look.
func (g *gateway) set(h *house, up bool) {
	g.down.Store(!up)
	h.PathsChanged()
}

func TestAFlowStandsStillWithoutTheIPsecThatItsRuleRequires(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	h.SetPolicy(rules(t, needsIPsec))
	g := new(gateway)
	v := h.visitBehind(g)
	got := make(chan byte, 100)
	port := target(t, func(c *net.TCPConn) {
		for b := make([]byte, 1); ; {
			if _, err := c.Read(b); err != nil {
				return
			}
			got <- b[0]
			_, _ = c.Write(b)
		}
	})
	conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port))
	h.must(err)
	if g.kept.Load() == 0 {
		t.Error("the path was not held to what protects it")
	}
	exchange(t, conn, "a")
	<-got

	g.set(h, false)
	var passing sync.WaitGroup
	passing.Go(func() { exchange(t, conn, "b") })
	if _, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port)); socks.CodeOf(err) != socks.NotAllowed || !strings.Contains(err.Error(), "IPsec") {
		t.Errorf("a connection without IPsec: %v", err)
	}
	g.set(h, false) // which is nothing new
	if len(got) > 0 {
		t.Error("something has passed")
	}
	g.set(h, true)
	passing.Wait()

	g.lost.Store(true)
	if _, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port)); socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("a connection on a path that cannot be held: %v", err)
	}
	g.lost.Store(false)
	h.must(conn.Close())
	for _, r := range end(audit.Flow) {
		if stood := strings.HasPrefix(r.What, "stood still for "); stood != (r.Decision == audit.Allowed) || r.Rule != "inside" {
			t.Errorf("record %+v", r)
		}
	}
}

func TestAFlowWaitsForIPsecOnlyAsLongAsItsRuleSays(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	h.SetPolicy(rules(t, strings.Replace(needsIPsec, "10m", "1ms", 1)))
	g := new(gateway)
	conn, _, err := h.visitBehind(g).Connect(t.Context(), connectTo(t, "127.0.0.1", echoTarget(t)))
	h.must(err)
	exchange(t, conn, "hello")
	g.set(h, false)
	conn.SetDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("it reads %d bytes, %v", n, err)
	}
	waitFor(t, func() bool { return h.Totals().Allowed == 1 })
	for _, r := range end(audit.Flow) {
		if r.End != "not protected" || !strings.HasPrefix(r.What, "stood still for ") {
			t.Errorf("record %+v", r)
		}
	}
}

// What a stricter policy says of flows that there are is no other thing.
func TestAFlowStandsStillUnderAPolicyThatComesToRequireIPsec(t *testing.T) {
	h := newHouse(t, nil)
	g := new(gateway)
	g.down.Store(true)
	conn, _, err := h.visitBehind(g).Connect(t.Context(), connectTo(t, "127.0.0.1", echoTarget(t)))
	h.must(err)
	exchange(t, conn, "hello")
	h.SetPolicy(rules(t, needsIPsec))
	if flows, _ := h.Flows(10); len(flows) != 1 || len(h.log.find(t, "flow stands still")) != 1 {
		t.Errorf("there are %+v", flows)
	}
	h.SetPolicy(nil)
	exchange(t, conn, "hello")
	h.must(conn.Close())
}

func TestDatagramsAreDroppedWithoutTheIPsecThatTheirRuleRequires(t *testing.T) {
	h := newHouse(t, nil)
	h.SetPolicy(rules(t, needsIPsec))
	x := &extent{h: h, key: h.device("anna")}
	office := new(gateway)
	x.come(office, 1)
	echo, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	h.must(err)
	var echoing sync.WaitGroup
	t.Cleanup(func() { echo.Close(); echoing.Wait() })
	echoing.Go(func() {
		for b := make([]byte, 1<<16); ; {
			n, from, err := echo.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(b[:n], from)
		}
	})
	at := socks.Addr{IP: onLoopback(0).IP, Port: uint16(echo.LocalAddr().(*net.UDPAddr).Port)}
	a, m, _ := x.lanes[0].associate(h)
	send := func(words ...string) {
		t.Helper()
		before := h.counts.sent.Load()
		for _, word := range words {
			a.Deliver(letter(at, word))
		}
		waitFor(t, func() bool { return h.counts.sent.Load() == before+int64(len(words)) })
	}
	send("one")
	if d := m.next(t); string(d.Payload) != "one" {
		t.Errorf("%q came", d.Payload)
	}
	office.set(h, false)
	send("lost", "lost", "lost")
	office.set(h, true)
	send("two")
	if d := m.next(t); string(d.Payload) != "two" {
		t.Errorf("%q came", d.Payload)
	}
}

// arrival is one of a device that has a session, or begins one, behind a gateway.
func (x *extent) arrival(g *gateway, epoch uint64) tunnel.Arrival {
	hello := tunnel.Hello{Session: x.id, Epoch: epoch}
	if len(x.lanes) > 0 {
		hello.Received = x.lanes[0].Received()
	}
	return tunnel.Arrival{Opening: hello.Sign(x.key, here), Place: here, Below: g.words, Keep: func() error {
		if g.down.Load() {
			return errors.New("there is nothing to hold it to")
		}
		return g.keep()
	}}
}

// come has the session go on with a carrier, or begin with one.
func (x *extent) come(g *gateway, epoch uint64) (near *tunneltest.Conn) {
	h := x.h
	h.t.Helper()
	answer, serve := h.Admit(h.ctx, x.arrival(g, epoch))
	welcome, err := tunnel.ParseAnswer(answer)
	h.must(err)
	near, far := tunneltest.Link(tunneltest.Path{})
	served := make(chan struct{})
	h.running.Go(func() { defer close(served); serve(h.ctx, far) })
	if len(x.lanes) == 0 {
		x.id = welcome.Session
		x.lanes = []*guest{{tunnel.New(true, tunnel.Config{Grace: time.Minute}), h.t, near, served, nil}}
		h.running.Go(func() { _ = x.lanes[0].Serve(h.ctx) })
	}
	carrier, err := x.lanes[0].Attach(near, epoch, welcome.Received)
	h.must(err)
	h.running.Go(func() { _ = carrier.Serve(context.Background()) })
	return near
}

// lose cuts a carrier, and waits until both ends know.
func (x *extent) lose(near *tunneltest.Conn) {
	x.h.t.Helper()
	near.Cut()
	x.h.status("loss", func(s Status) bool { return s.Carriers == 0 })
	waitFor(x.h.t, func() bool { s, _ := x.lanes[0].State(); return !s.Attached })
}

func TestASessionMovesOnWhileAFlowOfItsStandsStill(t *testing.T) {
	h := newHouse(t, nil)
	inside, outside := echoTarget(t), echoTarget(t)
	h.SetPolicy(rules(t, strings.Replace(needsIPsec, "networks", "ports = [\""+portText(inside)+"\"]\nnetworks", 1)+"\n[[rule]]\nthen = \"allow\"\n"))
	x := &extent{h: h, key: h.device("anna")}
	office, hotel := new(gateway), new(gateway)
	hotel.down.Store(true)
	near := x.come(office, 1)
	safe, other := x.lanes[0].connect(inside), x.lanes[0].connect(outside)
	exchange(t, safe, "hello")
	exchange(t, other, "hello")
	waitFor(t, func() bool { return x.settled() })
	x.lose(near)

	near = x.come(hotel, 2)
	exchange(t, other, "hello")
	var passing sync.WaitGroup
	passing.Go(func() { exchange(t, safe, "again") })
	exchange(t, other, "hello")
	if len(h.log.find(t, "flow stands still")) != 1 || len(h.log.find(t, "flow goes on")) != 0 {
		t.Error("the flow does not stand still")
	}
	if _, code := x.lanes[0].request(socks.Connect, onLoopback(inside)); code != socks.NotAllowed {
		t.Errorf("a connection from the hotel: %v", code)
	}
	x.lose(near)
	x.come(office, 3)
	passing.Wait()
	exchange(t, other, "hello")
}

// settled tells whether the device has all that the server's end has written.
func (x *extent) settled() bool {
	x.h.mu.Lock()
	defer x.h.mu.Unlock()
	return x.lanes[0].Received() >= x.h.sessions[x.id].lanes[0].tun.Written()
}

func portText(port uint16) string { return strings.TrimPrefix(onLoopback(port).String(), "127.0.0.1:") }

func TestWhatIsOnItsWayGoesByProtectedCarriersOnly(t *testing.T) {
	h := newHouse(t, nil)
	h.SetPolicy(rules(t, needsIPsec))
	x := &extent{h: h, key: h.device("anna")}
	office, hotel := new(gateway), new(gateway)
	hotel.down.Store(true)
	near := x.come(office, 1)
	const size = 4 << 20
	end := make(chan struct{})
	safe := x.lanes[0].connect(target(t, func(c *net.TCPConn) {
		_, _ = c.Write(make([]byte, size))
		<-end
	}))
	_, err := io.ReadFull(safe, make([]byte, 1))
	h.must(err)
	x.lose(near)
	for range 2 {
		answer, serve := h.Admit(h.ctx, x.arrival(hotel, 2))
		if _, err := tunnel.ParseAnswer(answer); !errors.Is(err, tunnel.RefusedBusy) || serve != nil {
			t.Errorf("in the hotel: %v", err)
		}
	}
	near = x.come(office, 2)
	safe.SetDeadline(time.Now().Add(patience))
	_, err = io.ReadFull(safe, make([]byte, size-1))
	h.must(err)

	// The flow ends, and what it has left behind must not go there either.
	x.lose(near)
	close(end)
	h.SetPolicy(rules(t, "[[rule]]\nthen = \"deny\"\n"))
	waitFor(t, func() bool { return len(h.log.find(t, "flow ended")) == 1 })
	h.mu.Lock()
	h.sessions[x.id].lanes[0].owed.Store(1 << 40)
	h.mu.Unlock()
	answer, _ := h.Admit(h.ctx, x.arrival(hotel, 3))
	if _, err := tunnel.ParseAnswer(answer); !errors.Is(err, tunnel.RefusedSession) {
		t.Errorf("in the hotel, after the flow: %v", err)
	}
}

func TestACarrierThatComesTooLateHasNoFlowStandStill(t *testing.T) {
	h := newHouse(t, nil)
	h.SetPolicy(rules(t, needsIPsec))
	x := &extent{h: h, key: h.device("anna")}
	office, hotel := new(gateway), new(gateway)
	hotel.down.Store(true)
	x.come(office, 1)
	safe := x.lanes[0].connect(echoTarget(t))
	exchange(t, safe, "hello")
	waitFor(t, func() bool { return x.settled() })
	_, late := h.Admit(h.ctx, x.arrival(hotel, 2))
	if late == nil {
		t.Fatal("it is not let in")
	}
	x.come(office, 3)
	waitFor(t, func() bool { return len(h.log.find(t, "resumed")) == 1 })
	near, far := tunneltest.Link(tunneltest.Path{})
	late(h.ctx, far)
	near.Close()
	exchange(t, safe, "hello")
	if len(h.log.find(t, "flow stands still")) != 0 {
		t.Error("the flow has stood still")
	}
}

// What apps ask for that have logged in may come by each lane, but not by one that has ended.
func TestAFlowGoesOnWhenTheUnprotectedLaneHasEnded(t *testing.T) {
	h := newInn(t, Login{Methods: byPassword, OtherUsers: true})
	h.SetPolicy(rules(t, needsIPsec))
	x := &extent{h: h, key: h.device("anna")}
	office, hotel := new(gateway), new(gateway)
	hotel.down.Store(true)
	x.come(office, 1)
	bob, _ := x.lanes[0].logIn("bob", "bob's password")
	safe, _, code := x.lanes[0].asks(socks.Connect, onLoopback(echoTarget(t)), bob)
	if code != socks.Succeeded {
		t.Fatal(code)
	}
	exchange(t, safe, "hello")
	second := x.arrival(hotel, 1)
	second.Opening = x.hello(1, 1)
	_, serve := h.Admit(h.ctx, second)
	near, far := tunneltest.Link(tunneltest.Path{})
	h.running.Go(func() { serve(h.ctx, far) })
	lane := tunnel.New(true, tunnel.Config{})
	carrier, err := lane.Attach(near, 1, 0)
	h.must(err)
	h.running.Go(func() { _ = carrier.Serve(context.Background()) })
	h.running.Go(func() { _ = lane.Serve(h.ctx) })
	waitFor(t, func() bool { return len(h.log.find(t, "flow stands still")) == 1 && x.has(1) })
	lane.Close(0)
	exchange(t, safe, "hello")
}

func TestAFlowThatStandsStillIsNotResetForWhatItsTargetSays(t *testing.T) {
	h := newHouse(t, nil)
	h.SetPolicy(rules(t, needsIPsec))
	g := new(gateway)
	v := h.visitBehind(g)
	speak := make(chan struct{})
	const banner = "SSH-2.0-adit\r\n"
	conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", target(t, func(c *net.TCPConn) {
		<-speak
		_, _ = io.WriteString(c, banner)
		_, _ = io.Copy(io.Discard, c)
	})))
	h.must(err)
	f := v.all()[0]
	g.set(h, false)
	close(speak)
	got := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(conn, make([]byte, len(banner)))
		got <- err
	}()
	waitFor(t, func() bool { _, speech := f.known(); return speech.protocol == "ssh" })
	g.set(h, true)
	h.must(receive(t, got, "the banner"))
	h.must(conn.Close())
}

func TestNamesAreResolvedOnAKeptPathOnly(t *testing.T) {
	h := newHouse(t, nil)
	h.SetPolicy(rules(t, "[[rule]]\nnames = [\".example\"]\nrequire_ipsec = true\nthen = \"allow\"\n"))
	g := new(gateway)
	v := h.visitBehind(g)
	conn, _, err := v.Connect(t.Context(), socks.Request{Command: socks.Connect, Dst: socks.Addr{IP: netip.IPv4Unspecified(), Port: 53}})
	h.must(err)
	f := v.all()[0]
	h.must(f.permit("a.example", netip.AddrPortFrom(netip.Addr{}, 53)))
	if g.kept.Load() == 0 {
		t.Error("the path was not held to what protects it")
	}
	for _, up := range []bool{false, true} {
		if g.set(h, up); f.part.holds() == up {
			t.Errorf("protected %t: it stands still %t", up, !up)
		}
	}
	err = v.MayResolve(socks.Request{}).Permit("a.example", netip.AddrPortFrom(netip.Addr{}, 53))
	if socks.CodeOf(err) != socks.NotAllowed || !strings.Contains(err.Error(), "IPsec") {
		t.Errorf("by packets that cannot be held to it: %v", err)
	}
	h.must(conn.Close())
}
