package wglink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestGuestSendsDatagramsOfAnySize(t *testing.T) {
	h := &fakeHost{associate: associateEcho}
	e := startHost(t, h)
	p := e.newPhone(t, phone4, phone6)
	for _, to := range []netip.AddrPort{netip.AddrPortFrom(target4, 9), netip.AddrPortFrom(target6, 9)} {
		from := phone4
		if to.Addr().Is6() {
			from = phone6
		}
		c := p.socket(t, from, to)
		for _, n := range []int{0, 1, 1372, 1373, 1392, 1393, 9000, 65_507} {
			want := randomBytes(n)
			if _, err := c.Write(want); err != nil {
				t.Fatalf("%d bytes to %v: %v", n, to, err)
			}
			got := make([]byte, maxDatagram)
			m, err := c.Read(got)
			if err != nil || string(got[:m]) != string(want) {
				t.Fatalf("%d bytes to %v: %d bytes came back, %v", n, to, m, err)
			}
		}
	}
	if n := len(h.seen()); n != 2 {
		t.Errorf("%d associations for two sockets", n)
	}
}

func TestDatagramsComeBackFromAnywhere(t *testing.T) {
	e := startHost(t, &fakeHost{associate: func(_ context.Context, p *Port) (Association, error) {
		return sendFunc(func(payload []byte, to netip.AddrPort) {
			p.Deliver(payload, netip.MustParseAddrPort("198.51.100.1:1"))
			p.Deliver(payload, netip.MustParseAddrPort("[::ffff:198.51.100.2]:2")) // as sockets of both versions say it
			p.Deliver(payload, netip.MustParseAddrPort("[2001:db8::1]:3"))         // cannot be told
			p.Deliver(make([]byte, maxPayload+1), to)
			p.Deliver(payload, to)
		}), nil
	}})
	c := e.newPhone(t, phone4).socket(t, phone4, netip.AddrPort{})
	if _, err := c.WriteTo([]byte("hi"), udpAddr(netip.AddrPortFrom(target4, 99))); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"198.51.100.1:1", "198.51.100.2:2", "192.0.2.7:99"} {
		b := make([]byte, 10)
		n, from, err := c.ReadFrom(b)
		if err != nil || from.String() != want || string(b[:n]) != "hi" {
			t.Errorf("%q from %v, %v; want it from %s", b[:n], from, err, want)
		}
	}
}

// sendFunc is an association.
type sendFunc func(payload []byte, to netip.AddrPort)

func (f sendFunc) Send(payload []byte, to netip.AddrPort) { f(payload, to) }
func (sendFunc) Close()                                   {}

func TestOneSocketOfAGuestIsOneAssociation(t *testing.T) {
	h := &fakeHost{associate: associateEcho}
	p := startHost(t, h).newPhone(t, phone4)
	c := p.socket(t, phone4, netip.AddrPort{})
	for i := range 20 {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), uint16(1000+i))
		if _, err := c.WriteTo([]byte("x"), udpAddr(to)); err != nil {
			t.Fatal(err)
		}
		if _, from, err := c.ReadFrom(make([]byte, 1)); err != nil || from.String() != to.String() {
			t.Fatalf("from %v: %v", from, err)
		}
	}
	if n := len(h.seen()); n != 1 {
		t.Errorf("%d associations", n)
	}
}

func TestLossesAreToldToTheGuest(t *testing.T) {
	var loss atomic.Value
	e := startHost(t, &fakeHost{associate: func(_ context.Context, p *Port) (Association, error) {
		return sendFunc(func(_ []byte, to netip.AddrPort) {
			l := loss.Load().(Loss)
			l.To = to
			p.Lose(l)
		}), nil
	}})
	p := e.newPhone(t, phone4, phone6)
	errs4, errs6 := make(chan []byte, 10), make(chan []byte, 10)
	p.sniff(func(b []byte) {
		if b[0]>>4 == 4 && b[9] == 1 {
			errs4 <- append([]byte(nil), b...)
		} else if b[0]>>4 == 6 && b[6] == 58 {
			errs6 <- append([]byte(nil), b...)
		}
	})
	c4, c6 := p.socket(t, phone4, netip.AddrPortFrom(target4, 9)), p.socket(t, phone6, netip.AddrPortFrom(target6, 9))
	for _, want := range []struct {
		loss     Loss
		v4, v6   [2]byte
		mtu      uint32
		reporter string
	}{
		{Loss{Reason: Refused}, [2]byte{3, 3}, [2]byte{1, 4}, 0, "10.66.0.1"},
		{Loss{Reason: NotAllowed}, [2]byte{3, 13}, [2]byte{1, 1}, 0, "10.66.0.1"},
		{Loss{Reason: HostUnreachable, Reporter: netip.MustParseAddr("198.51.100.9")}, [2]byte{3, 1}, [2]byte{1, 3}, 0, "198.51.100.9"},
		{Loss{Reason: TooBig, MTU: 1300}, [2]byte{3, 4}, [2]byte{2, 0}, 1300, "10.66.0.1"},
	} {
		loss.Store(want.loss)
		insist(t, c4)
		insist(t, c6)
		b4, b6 := <-errs4, <-errs6
		m4, m6 := b4[header.IPv4MinimumSize:], b6[header.IPv6MinimumSize:]
		if [2]byte(m4) != want.v4 || [2]byte(m6) != want.v6 {
			t.Errorf("%v: the messages are %v and %v", want.loss, m4[:2], m6[:2])
		}
		if binary.BigEndian.Uint32(m4[4:]) != want.mtu || binary.BigEndian.Uint32(m6[4:]) != want.mtu {
			t.Errorf("%v: the MTUs are %v and %v", want.loss, m4[4:8], m6[4:8])
		}
		if source, _, _ := addresses(b4); source.String() != want.reporter {
			t.Errorf("%v: %v says so", loss, source)
		}
		source, target, _ := addresses(m4[echoHeader:])
		quoted := header.UDP(m4[echoHeader+header.IPv4MinimumSize:])
		if source != phone4 || target != target4 || quoted.DestinationPort() != 9 || quoted.SourcePort() == 0 {
			t.Errorf("%v: it is about %v to %v, %v", want.loss, source, target, quoted)
		}
	}
	// And the phone's stack understands them.
	loss.Store(Loss{Reason: Refused})
	c := p.socket(t, phone4, netip.AddrPortFrom(target4, 9))
	expectLoss(t, c, "refused")
}

// insist sends a datagram: a socket may first tell what became of the last.
func insist(t *testing.T, c net.Conn) {
	t.Helper()
	for range 3 {
		if _, err := c.Write([]byte("x")); err == nil {
			return
		}
	}
	t.Fatal("the socket does not send")
}

// expectLoss sends until the socket is told why that is in vain.
func expectLoss(t *testing.T, c net.Conn, why string) {
	t.Helper()
	eventually(t, "a datagram fails", func() bool {
		_, err := c.Write([]byte("x"))
		if err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("the phone is told %v", err)
		}
		return err != nil
	})
}

func TestGuestIsToldWhyItHasNoAssociation(t *testing.T) {
	p := startHost(t, &fakeHost{associate: func(context.Context, *Port) (Association, error) {
		return nil, fmt.Errorf("associate: %w", Refused)
	}}).newPhone(t, phone4)
	expectLoss(t, p.socket(t, phone4, netip.AddrPortFrom(target4, 9)), "refused")
}

// visitorOf gives what the server knows of a guest at an address.
func (e *exit) visitorOf(a netip.Addr) *visitor {
	for { // until the server runs
		e.roster.mu.Lock()
		h := e.roster.hall
		e.roster.mu.Unlock()
		if h != nil {
			return h.visitor(a)
		}
		time.Sleep(time.Millisecond)
	}
}

func (v *visitor) portCount() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.ports)
}

func TestIdleAssociationsEnd(t *testing.T) {
	e := startHost(t, &fakeHost{associate: func(_ context.Context, p *Port) (Association, error) {
		if p.Target.Port() == 9 { // it never answers
			return sendFunc(func([]byte, netip.AddrPort) {}), nil
		}
		return echoUDP{port: p}, nil
	}})
	p := e.newPhone(t, phone4)
	v := e.visitorOf(phone4)
	silent := p.socket(t, phone4, netip.AddrPortFrom(target4, 9))
	_, _ = silent.Write([]byte("x"))
	roundTrip(t, p.socket(t, phone4, netip.AddrPortFrom(target4, dnsPort)), 10)
	roundTrip(t, p.socket(t, phone4, netip.AddrPortFrom(target4, 10)), 10)
	eventually(t, "three associations", func() bool { return v.portCount() == 3 })
	now := time.Now()
	for _, step := range []struct {
		after time.Duration
		left  int
	}{{29 * time.Second, 3}, {31 * time.Second, 1}, {119 * time.Second, 1}, {121 * time.Second, 0}} {
		v.sweepPorts(now.Add(step.after))
		if n := v.portCount(); n != step.left {
			t.Errorf("after %v there are %d, want %d", step.after, n, step.left)
		}
	}
	if n := v.peer.flows.Load(); n != 0 {
		t.Errorf("the guest still has %d flows", n)
	}
	roundTrip(t, p.socket(t, phone4, netip.AddrPortFrom(target4, 10)), 10)
}

func TestPortThatTheHostClosesIsOver(t *testing.T) {
	ports := make(chan *Port, 2)
	closed := make(chan struct{})
	e := startHost(t, &fakeHost{associate: func(_ context.Context, p *Port) (Association, error) {
		ports <- p
		if len(ports) > 1 {
			return associateEcho(t.Context(), p)
		}
		return echoUDP{p, closed}, nil
	}})
	p := e.newPhone(t, phone4)
	c := p.socket(t, phone4, netip.AddrPortFrom(target4, 10))
	roundTrip(t, c, 10)
	port := <-ports
	ports <- port
	port.Close()
	port.Close()
	<-closed
	port.Deliver([]byte("late"), netip.AddrPortFrom(target4, 10))
	roundTrip(t, c, 10) // by another one; what was late did not come
}

func TestFullTableOfAssociationsMakesRoomForNewOnes(t *testing.T) {
	h := &fakeHost{associate: associateEcho}
	e := startHost(t, h)
	e.newPhone(t, phone4)
	v := e.visitorOf(phone4)
	at := func(i int) netip.AddrPort { return netip.AddrPortFrom(phone4, uint16(1000+i)) }
	for i := range maxPorts {
		v.send(at(i), netip.AddrPortFrom(target4, 9), nil)
	}
	v.send(at(maxPorts), netip.AddrPortFrom(target4, 9), nil)
	if n := v.portCount(); n != maxPorts || v.port(at(maxPorts)) != nil {
		t.Errorf("there are %d", n)
	}
	if e.Dropped().Limit != 1 {
		t.Errorf("dropped: %+v", e.Dropped())
	}
	v.port(at(5)).last.Add(-int64(spareAfter + time.Second))
	v.port(at(7)).last.Add(-int64(spareAfter + time.Minute))
	v.crowded = time.Time{} // as if the time had passed for all
	v.send(at(maxPorts), netip.AddrPortFrom(target4, 9), nil)
	if v.port(at(7)) != nil || v.port(at(5)) == nil || v.port(at(maxPorts)) == nil || v.portCount() != maxPorts {
		t.Error("the one that was idle for longest did not make room")
	}
}

// Hosts deliver, close and lose at any time.
func TestPortsMayBeUsedByManyAtOnce(t *testing.T) {
	ports := make(chan *Port, 1000)
	e := startHost(t, &fakeHost{associate: func(_ context.Context, p *Port) (Association, error) {
		ports <- p
		return echoUDP{port: p}, nil
	}})
	p := e.newPhone(t, phone4)
	var busy sync.WaitGroup
	for range 20 {
		c := p.socket(t, phone4, netip.AddrPortFrom(target4, 10))
		busy.Go(func() {
			for range 50 {
				_, _ = c.Write([]byte("hello"))
			}
		})
	}
	for range 20 {
		port := <-ports
		busy.Go(func() { port.Deliver([]byte("x"), netip.AddrPortFrom(target4, 10)) })
		busy.Go(port.Close)
		busy.Go(func() { port.Lose(Loss{To: netip.AddrPortFrom(target4, 10), Reason: HostUnreachable}) })
	}
	busy.Wait()
}

var errSilent = errors.New("no reason that IP knows")

func TestDNSOverTCPHasNoMoreRoomThanOverUDP(t *testing.T) {
	e := startHost(t, &fakeHost{resolve: func(_ context.Context, q Query) ([]byte, error) { return q.Message, nil }})
	p := e.newPhone(t, phone4)
	v := e.visitorOf(phone4)
	for range maxAsking {
		if !v.ask() {
			t.Fatal("there is less room than there should be")
		}
	}
	defer func() {
		for range maxAsking - 1 {
			v.answered()
		}
	}()
	to := netip.AddrPortFrom(inner4.Addr(), dnsPort)
	query := append([]byte{0, dnsHeader}, make([]byte, dnsHeader)...)
	c := p.mustDial(t, to)
	_, _ = c.Write(query)
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("without room for it %d bytes come back, and %v", n, err)
	}
	v.answered()
	c = p.mustDial(t, to)
	for range 3 {
		_, _ = c.Write(query)
		if err := readFull(c, make([]byte, len(query))); err != nil {
			t.Errorf("with room for one there is no answer: %v", err)
		}
	}
	// It rests now, but holds nobody up who wants an end.
	v.cancel()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err := c.Read(make([]byte, 1))
	if late, ok := errors.AsType[net.Error](err); !ok || late.Timeout() {
		t.Errorf("when the guest has to go, Read gives %v", err)
	}
}

func TestServerAnswersDNSAtItsInnerAddress(t *testing.T) {
	query := make([]byte, 40)
	query[0], query[1], query[5] = 0xab, 0xcd, 1
	long := randomBytes(40_000)
	e := startHost(t, &fakeHost{resolve: func(_ context.Context, q Query) ([]byte, error) {
		if q.Message[20] != 0 {
			return nil, errSilent
		}
		if string(q.Message) != string(query) {
			t.Errorf("the host got %x", q.Message)
		}
		if q.TCP {
			return long, nil
		}
		return q.Message[:20], nil
	}})
	p := e.newPhone(t, phone4, phone6)
	bad := append([]byte(nil), query...)
	bad[20] = 1
	for _, at := range []netip.Prefix{inner4, inner6} {
		to := netip.AddrPortFrom(at.Addr(), dnsPort)
		from := phone4
		if at.Addr().Is6() {
			from = phone6
		}
		c, b := p.socket(t, from, to), make([]byte, 100)
		_, _ = c.Write(query[:5]) // is not answered
		_, _ = c.Write(query)
		if n, err := c.Read(b); err != nil || string(b[:n]) != string(query[:20]) {
			t.Errorf("the answer is %x, %v", b[:n], err)
		}
		_, _ = c.Write(bad)
		if n, err := c.Read(b); err != nil || n != len(bad) || b[0] != 0xab || b[2] != 0x80 || b[3] != 2 {
			t.Errorf("the answer is %x, %v", b[:n], err)
		}
		s := p.mustDial(t, to)
		for range 3 {
			_, _ = s.Write(append([]byte{0, byte(len(query))}, query...))
			got := make([]byte, 2+len(long))
			if err := readFull(s, got); err != nil || binary.BigEndian.Uint16(got) != uint16(len(long)) || string(got[2:]) != string(long) {
				t.Errorf("another answer came, or: %v", err)
			}
		}
		_, _ = s.Write([]byte{0, 3, 1, 2, 3})
		if _, err := s.Read(b); err == nil {
			t.Error("a message that is too short was answered")
		}
		// Nobody else is at home there.
		u := p.socket(t, from, netip.AddrPortFrom(at.Addr(), 54))
		expectLoss(t, u, "refused")
	}
}
