package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/udp"
)

// mirror is a relay whose associations send everything back.
type mirror struct {
	socks.Unserved
	open chan *mirrored
}

func (m mirror) Associate(_ context.Context, _ socks.Request, in socks.Inbox) (socks.Association, socks.Reply, error) {
	a := &mirrored{in: in, done: make(chan struct{}), closed: make(chan struct{}, 100)}
	m.open <- a
	return a, socks.Reply{Bound: netip.MustParseAddrPort("203.0.113.1:40000")}, nil
}

type mirrored struct {
	in     socks.Inbox
	done   chan struct{}
	closed chan struct{}
}

func (a *mirrored) Send(batch []socks.Datagram) { a.in.Deliver(batch) }
func (a *mirrored) Done() <-chan struct{}       { return a.done }
func (a *mirrored) Close() error                { a.closed <- struct{}{}; return nil }

// associate opens an association.
func (g *guest) associate(h *house) (*udp.Association, *mailbox, *tunnel.Stream) {
	g.t.Helper()
	if g.mux == nil {
		g.mux = udp.New(g.Session)
		h.running.Go(func() { _ = g.mux.Serve(h.ctx) })
	}
	stream, code := g.request(socks.Associate, anybody)
	if code != socks.Succeeded {
		g.t.Fatalf("associate: %v", code)
	}
	stream.SetDeadline(time.Time{})
	a, m := g.mux.Associate(stream), newMailbox()
	if err := a.Open(m); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { a.Close() })
	return a, m, stream
}

func letter(to socks.Addr, text string) []socks.Datagram {
	return []socks.Datagram{{Addr: to, Payload: []byte(text)}}
}

func TestDatagramsGoToTheirTargetsAndBack(t *testing.T) {
	target, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	answering := make(chan struct{})
	go func() {
		defer close(answering)
		for b := make([]byte, 1<<16); ; {
			n, from, err := target.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = target.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	defer func() { target.Close(); <-answering }()
	at := target.LocalAddr().(*net.UDPAddr).AddrPort()
	to := socks.Addr{IP: at.Addr(), Port: at.Port()}

	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	a, in, _ := g.associate(h)
	for _, text := range []string{"introduced", "known", string(make([]byte, 65_507))} {
		a.Deliver(letter(to, text))
		if d := in.next(t); d.Addr != to || string(d.Payload) != text {
			t.Errorf("%d bytes come from %v", len(d.Payload), d.Addr)
		}
	}
	a.Close()
	eventually(t, "the flow's line", func() bool { return len(h.log.find(t, "flow ended")) == 1 })
	line := h.log.find(t, "flow ended")[0]
	for key, want := range map[string]float64{"up": 65_522, "down": 65_522, "datagrams_up": 3, "datagrams_down": 3, "code": 0} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
}

func TestAssociationEndsWithItsStream(t *testing.T) {
	for name, leave := range map[string]func(*guest, *tunnel.Stream){
		"closed":       func(_ *guest, s *tunnel.Stream) { s.Close() },
		"reset":        func(_ *guest, s *tunnel.Stream) { s.Reset() },
		"used":         func(_ *guest, s *tunnel.Stream) { s.Write([]byte("x")) },
		"session lost": func(g *guest, _ *tunnel.Stream) { g.Fail(errors.New("enough")) },
	} {
		t.Run(name, func(t *testing.T) {
			r := mirror{open: make(chan *mirrored, 1)}
			h := newHouse(t, func(c *Config) { c.Relay = r })
			g := h.attach(h.device("anna"))
			a, in, stream := g.associate(h)
			a.Deliver(letter(onLoopback(1), "hello"))
			in.next(t)
			far := receive(t, r.open, "the association")
			began := time.Now()
			leave(g, stream)
			receive(t, far.closed, "the end at the exit")
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %v", took)
			}
			a.Wait()
			eventually(t, "the flow's line", func() bool { return len(h.log.find(t, "flow ended")) == 1 })
		})
	}
}

func TestClientHearsThatTheExitHasEndedAnAssociation(t *testing.T) {
	r := mirror{open: make(chan *mirrored, 1)}
	h := newHouse(t, func(c *Config) { c.Relay = r })
	g := h.attach(h.device("anna"))
	a, _, _ := g.associate(h)
	far := receive(t, r.open, "the association")
	close(far.done)
	a.Wait()
	receive(t, far.closed, "the end at the exit")
}

func TestAssociationsCountAsStreamsOfTheirUser(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.UserStreams = 1 })
	g := h.attach(h.device("anna"))
	a, _, _ := g.associate(h)
	if _, code := g.request(socks.Associate, anybody); code != socks.GeneralFailure {
		t.Errorf("the second: %v", code)
	}
	a.Close()
	eventually(t, "another may be opened", func() bool {
		_, code := g.request(socks.Associate, anybody)
		return code == socks.Succeeded
	})
}

func TestWhoIsSentAwayLosesAssociations(t *testing.T) {
	r := mirror{open: make(chan *mirrored, 1)}
	h := newHouse(t, func(c *Config) { c.Relay = r })
	visit, err := h.Visit(t.Context(), Visitor{User: "anna"})
	h.must(err)
	defer visit.Close()
	a, _, err := visit.Associate(t.Context(), socks.Request{Command: socks.Associate}, newMailbox())
	h.must(err)
	far := receive(t, r.open, "the association")
	h.must(h.store.SetUserDisabled(t.Context(), "anna", true))
	receive(t, far.closed, "the end at the exit")
	if _, _, err := visit.Associate(t.Context(), socks.Request{}, newMailbox()); socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("another one: %v", err)
	}
	a.Close()
	if line := h.log.find(t, "flow ended"); len(line) != 1 {
		t.Errorf("%d flows have ended", len(line))
	}
}

func TestPairOfPortsIsOneUsers(t *testing.T) {
	h := newHouse(t, nil)
	anna, bob := h.attach(h.device("anna")), h.attach(h.device("bob"))
	wanted := parity(socks.ParityEven6 | socks.ParityReserve6)
	_, _, first := anna.ask(socks.Request6{Command: socks.Associate, Dst: anybody, Options: socks.Options6{Stack: wanted}})
	if first.Code != socks.Succeeded || first.Bound.Port%2 != 0 || !slices.Equal(first.Options.Stack, wanted) {
		t.Fatalf("the first port: %+v", first)
	}
	other := socks.Addr{IP: anybody.IP, Port: first.Bound.Port + 1}
	_, _, strangers := bob.ask(socks.Request6{Command: socks.Associate, Dst: other})
	_, _, second := anna.ask(socks.Request6{Command: socks.Associate, Dst: other})
	if strangers.Bound.Port == other.Port || second.Bound.Port != other.Port {
		t.Errorf("of port %d bob gets %d, and anna %d", other.Port, strangers.Bound.Port, second.Bound.Port)
	}
}
