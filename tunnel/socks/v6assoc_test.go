package socks

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// associated6 is an app with an association of SOCKS 6.
type associated6 struct {
	control net.Conn
	id      uint64
	reply   OperationReply6
	echo    *echo
	udp     *net.UDPConn
	door    netip.AddrPort
}

func associate6(t testing.TB, door string, e *echoes, o Options6) *associated6 {
	t.Helper()
	a := &associated6{control: dial(t, door), door: netip.MustParseAddrPort(door)}
	a.begin(t, e, o)
	a.udp = listenUDP(t, a.door.Addr(), 0)
	return a
}

// associateAgain6 is associate6 where there is room for one: that of the one before is free a
// moment after its end.
func associateAgain6(t testing.TB, door string, e *echoes) *associated6 {
	t.Helper()
	for began := time.Now(); ; {
		a := &associated6{control: dial(t, door), door: netip.MustParseAddrPort(door)}
		if a.ask(t, Options6{}); a.reply.Code == GeneralFailure && time.Since(began) < 10*time.Second {
			a.control.Close()
			continue
		}
		a.begun(t, e)
		a.udp = listenUDP(t, a.door.Addr(), 0)
		return a
	}
}

func (a *associated6) begin(t testing.TB, e *echoes, o Options6) {
	t.Helper()
	a.ask(t, o)
	a.begun(t, e)
}

// begun expects that there is an association.
func (a *associated6) begun(t testing.TB, e *echoes) {
	t.Helper()
	if a.reply.Code != Succeeded {
		t.Fatalf("%+v", a.reply)
	}
	m := a.next(t)
	if m.Type != UDPInit6 {
		t.Fatalf("the first message is %+v", m)
	}
	a.id = m.Association
	a.echo = receive(t, e.begun)
}

// ask asks for an association.
func (a *associated6) ask(t testing.TB, o Options6) {
	t.Helper()
	send(t, a.control, encode6(t, Request6{Command: Associate, Options: o}))
	if p, err := ReadAuthReply6(a.control); err != nil || !p.OK {
		t.Fatalf("%+v, %v", p, err)
	}
	var err error
	if a.reply, err = ReadOperationReply6(a.control); err != nil {
		t.Fatal(err)
	}
}

// next reads a message from the TCP connection.
func (a *associated6) next(t testing.TB) UDPMessage6 {
	t.Helper()
	m, err := ReadUDPMessage6(a.control, make([]byte, 65535))
	if err != nil {
		t.Fatal(err)
	}
	if a.id != 0 && m.Association != a.id {
		t.Fatalf("%+v is for another", m)
	}
	return m
}

// datagram gives the bytes of one that the app sends.
func (a *associated6) datagram(t testing.TB, to, payload string) string {
	t.Helper()
	m := UDPMessage6{Type: UDPDatagram6, Association: a.id, Addr: addr6(t, to), Payload: []byte(payload)}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (a *associated6) trigger() string {
	b, _ := UDPMessage6{Type: UDPDatagram6, Association: a.id}.AppendBinary(nil)
	return string(b)
}

func TestSocks6DatagramsGoOverTCP(t *testing.T) {
	e := newEchoes()
	a := associate6(t, openDoor(t, &Door{Relay: e}), e, Options6{})
	if want := addr6(t, "203.0.113.200:5004"); a.reply.Bound != want {
		t.Errorf("bound to %v, want %v", a.reply.Bound, want)
	}
	long := strings.Repeat("x", maxUDP)
	for i, payload := range []string{"hi", "", "more", long, strings.Repeat("y", 4096)} {
		send(t, a.control, a.datagram(t, "192.0.2.53:53", payload))
		if i == 0 {
			if m := a.next(t); m.Type != UDPConfirm6 {
				t.Fatalf("%+v, want the confirmation", m)
			}
		}
		if m := a.next(t); m.Type != UDPDatagram6 || string(m.Payload) != payload || m.Addr != addr6(t, "192.0.2.53:53") {
			t.Errorf("%d bytes come back as %+v", len(payload), m)
		}
	}
	send(t, a.control, a.datagram(t, "example.com:53", "hi"))
	if m := a.next(t); m.Addr != addr6(t, "192.0.2.99:53") {
		t.Errorf("a name's answer comes from %v", m.Addr)
	}
	sendTo(t, a.udp, a.door, a.datagram(t, "192.0.2.53:53", "from elsewhere"))
	send(t, a.control, a.datagram(t, "192.0.2.53:53", "last"))
	if m := a.next(t); string(m.Payload) != "last" {
		t.Errorf("%q has come from another way", m.Payload)
	}
}

func TestSocks6DatagramsGoOverUDP(t *testing.T) {
	e := newEchoes()
	d := &Door{Relay: e}
	door := openDoor(t, d)
	a, b := associate6(t, door, e, Options6{}), associate6(t, door, e, Options6{})
	if a.id == b.id {
		t.Fatal("two associations have one id")
	}
	for _, one := range []*associated6{a, b} {
		packet := one.datagram(t, "192.0.2.53:53", "hi")
		sendTo(t, one.udp, one.door, packet+"padding")
		if m := one.next(t); m.Type != UDPConfirm6 {
			t.Fatalf("%+v, want the confirmation", m)
		}
		expectPacket(t, one.udp, packet)
	}
	// What comes from elsewhere, with a wrong id, or is none of an app's messages is lost.
	other := listenUDP(t, a.door.Addr(), 0)
	lost := a.datagram(t, "192.0.2.53:53", "lost")
	sendTo(t, other, a.door, lost)
	sendTo(t, b.udp, a.door, lost)
	sendTo(t, a.udp, a.door, lost[:len(lost)-1])
	init, _ := UDPMessage6{Type: UDPInit6, Association: a.id}.AppendBinary(nil)
	sendTo(t, a.udp, a.door, string(init))
	unknown := (&associated6{id: a.id + 1}).datagram(t, "192.0.2.53:53", "unknown")
	sendTo(t, a.udp, a.door, unknown)
	send(t, a.control, lost)
	sendTo(t, a.udp, a.door, a.datagram(t, "192.0.2.53:53", "found"))
	expectPacket(t, a.udp, a.datagram(t, "192.0.2.53:53", "found"))
	for range len(a.echo.sent) {
		if p := string((<-a.echo.sent).Payload); p != "hi" && p != "found" {
			t.Errorf("%q has come through", p)
		}
	}
}

func TestSocks6ServersAskForTheConfirmation(t *testing.T) {
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e})
	from := Datagram{Addr: addr6(t, "192.0.2.53:53"), Payload: []byte("hello, server")}
	for _, udp := range []bool{false, true} {
		a := associate6(t, door, e, Options6{})
		a.echo.deliver(from) // nobody is there yet
		if udp {
			sendTo(t, a.udp, a.door, a.trigger())
		} else {
			send(t, a.control, a.trigger())
		}
		if m := a.next(t); m.Type != UDPConfirm6 {
			t.Fatalf("%+v, want the confirmation", m)
		}
		a.echo.deliver(from)
		if udp {
			expectPacket(t, a.udp, a.datagram(t, "192.0.2.53:53", "hello, server"))
		} else if m := a.next(t); string(m.Payload) != "hello, server" {
			t.Errorf("%+v", m)
		}
		if n := len(a.echo.sent); n != 0 {
			t.Errorf("%d datagrams have gone out", n)
		}
	}
}

func TestSocks6AppsHearOfLossesIfTheyWant(t *testing.T) {
	four, six := netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::35]:53")
	reporter := netip.MustParseAddr("198.51.100.254")
	losses := []Loss{
		{To: four, Reporter: reporter, Code: NetworkUnreachable},
		{To: four, Reporter: reporter, Code: HostUnreachable},
		{To: four, Code: TTLExpired},
		{To: six, Reporter: reporter, Code: GeneralFailure, MTU: 1280},
		{To: four, Reporter: reporter, Code: GeneralFailure, MTU: 1280}, // no words for it
		{To: four, Reporter: reporter, Code: ConnectionRefused},         // nor for this
	}
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e})
	for _, value := range []uint16{0, StackOff6, StackOn6} {
		for _, udp := range []bool{false, true} {
			var o Options6
			if value != 0 {
				o.Stack = []StackOption6{{TargetLeg6, StackUDPErrors6, value}}
			}
			a := associate6(t, door, e, o)
			if !slices.Equal(a.reply.Options.Stack, o.Stack) {
				t.Errorf("the reply has %v, want %v", a.reply.Options.Stack, o.Stack)
			}
			if udp {
				sendTo(t, a.udp, a.door, a.trigger())
			} else {
				send(t, a.control, a.trigger())
			}
			a.next(t) // the confirmation
			for _, l := range losses {
				a.echo.in.Lost(l)
			}
			a.echo.deliver(Datagram{Addr: addr6(t, "192.0.2.53:53"), Payload: []byte("end")})
			var causes []UDPCause6
			for {
				m := a.next1(t, udp)
				if m.Type == UDPDatagram6 {
					break
				}
				if m.Type != UDPError6 || m.Addr.Port != 53 || m.Reporter != reporter && m.Cause != UDPTTLExpired6 {
					t.Errorf("%+v", m)
				}
				causes = append(causes, m.Cause)
			}
			want := []UDPCause6{1, 2, 3, 4}
			if value != StackOn6 {
				want = nil
			}
			if !slices.Equal(causes, want) {
				t.Errorf("option %d, UDP %v: told of %v, want %v", value, udp, causes, want)
			}
		}
	}
}

// next1 reads a message from wherever it comes.
func (a *associated6) next1(t testing.TB, udp bool) UDPMessage6 {
	t.Helper()
	if !udp {
		return a.next(t)
	}
	b := make([]byte, 65535)
	n, err := a.udp.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseUDPMessage6(b[:n])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSocks6AssociationsEndWithTheirConnection(t *testing.T) {
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e, UDP: UDP{MaxAssociations: 1}})
	for range 3 { // there is room for one only, and one port
		a := associateAgain6(t, door, e)
		sendTo(t, a.udp, a.door, a.datagram(t, "192.0.2.53:53", "hi"))
		a.next(t)
		c := dial(t, door)
		send(t, c, encode6(t, Request6{Command: Associate}))
		if _, err := ReadAuthReply6(c); err != nil {
			t.Fatal(err)
		}
		if op, err := ReadOperationReply6(c); err != nil || op.Code != GeneralFailure {
			t.Errorf("one too many: %+v, %v", op, err)
		}
		began := time.Now()
		a.control.Close()
		receive(t, a.echo.closed)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the association goes on for %v", took)
		}
	}
	a := associateAgain6(t, door, e)
	close(a.echo.over)
	expectEnd(t, a.control)
}

func TestSocks6AppsMayNotTalkNonsense(t *testing.T) {
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e})
	for _, words := range []string{
		"hello, my name is",
		"\x06\x01\x00\x0c12345678",
		"\x06\x03\x00\x0b12345678",
		"\x06\x05\x00\x0c12345678",
		"\x06\x03\x00\x1012345678\x02\x00\x00\x50",
		"\x05\x03\x00\x1012345678\x02\x00\x00\x50",
	} {
		a := associate6(t, door, e, Options6{})
		send(t, a.control, words)
		receive(t, a.echo.closed)
	}
}

func TestSocks6AssociationsOfSilentAppsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, says := range []bool{false, true} {
			app, near := newDuplex()
			e := newEchoes()
			served := make(chan error, 1)
			d := &Door{Relay: e, Admission: Admission{Anyone: true}}
			ctx, cancel := context.WithCancel(t.Context())
			go func() { served <- d.Serve(ctx, newOneListener(near)) }()
			a := &associated6{control: app}
			a.begin(t, e, Options6{})
			if says {
				send(t, app, a.trigger())
				a.next(t)
			}
			time.Sleep(firstDatagram6 + time.Second)
			select {
			case <-a.echo.closed:
				if says {
					t.Error("the association of an app that is there has ended")
				}
			default:
				if !says {
					t.Error("the association of an app that says nothing goes on")
				}
			}
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
			app.Close()
		}
	})
}

func TestSocks6AppsThatDoNotReadLoseDatagrams(t *testing.T) {
	app, near := newDuplex() // takes nothing that is not read
	defer app.Close()
	u := &udp6{over: make(chan struct{}), more: make(chan struct{}, 1), pinned: true}
	d := Datagram{Addr: addr6(t, "192.0.2.53:53"), Payload: make([]byte, 1000)}
	wrote := make(chan error, 1)
	go func() { wrote <- u.write(near) }()
	for range 10_000 {
		u.Deliver([]Datagram{d}) // does not wait
	}
	u.mu.Lock()
	if n := len(u.queue); n > maxQueued6 || n < maxQueued6/2 {
		t.Errorf("%d bytes wait", n)
	}
	u.mu.Unlock()
	near.Close()
	if err := <-wrote; !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func TestSocks6DatagramsNeedAnOpenDoor(t *testing.T) {
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e, UDP: UDP{Off: true}})
	c := dial(t, door)
	send(t, c, encode6(t, Request6{Command: Associate}))
	if _, err := ReadAuthReply6(c); err != nil {
		t.Fatal(err)
	}
	if op, err := ReadOperationReply6(c); err != nil || op.Code != CommandNotSupported {
		t.Errorf("%+v, %v", op, err)
	}
}

// pairing is a relay that keeps the other port of each pair where that is asked for.
type pairing struct{ *echoes }

func (p pairing) Associate(ctx context.Context, r Request, in Inbox) (Association, Reply, error) {
	a, reply, err := p.echoes.Associate(ctx, r, in)
	reply.Stack = r.Stack
	return a, reply, err
}

func TestSocks6PairsOfPortsBelongToASession(t *testing.T) {
	e := newEchoes()
	door := openDoor(t, &Door{Relay: pairing{e}})
	even := []StackOption6{{TargetLeg6, StackPortParity6, ParityEven6 | ParityReserve6}}
	// associate asks for a port, within a session, and gives what the relay is asked for.
	associate := func(id []byte, port uint16, options []StackOption6) (net.Conn, Request, OperationReply6) {
		t.Helper()
		c := dial(t, door)
		q := Request6{Command: Associate, Dst: Addr{IP: netip.IPv4Unspecified(), Port: port}, Options: Options6{SessionID: id, Stack: options}}
		send(t, c, encode6(t, q))
		if p, err := ReadAuthReply6(c); err != nil || !p.OK {
			t.Fatalf("%+v, %v", p, err)
		}
		return c, receive(t, e.asked), nextReply6(t, c)
	}
	one, two := beginSession6(t, door), beginSession6(t, door)
	first, r, reply := associate(one, 0, even)
	if !slices.Equal(r.Stack, even) || !slices.Equal(reply.Options.Stack, even) {
		t.Errorf("asked for %v, granted %v", r.Stack, reply.Options.Stack)
	}
	echo := receive(t, e.begun)
	other := reply.Bound.Port ^ 1
	for _, id := range [][]byte{nil, two} {
		if _, r, _ := associate(id, other, nil); r.Dst.Port != 0 {
			t.Error("a port is named from outside of its session")
		}
	}
	// Whoever names a port has chosen its parity.
	if _, r, _ := associate(one, other, even); r.Dst.Port != other || len(r.Stack) > 0 {
		t.Errorf("the relay is asked for %+v", r)
	}
	if _, r, _ := associate(one, other, nil); r.Dst.Port != 0 {
		t.Error("a port is named twice")
	}
	first.Close()
	receive(t, echo.closed)
	// Without a session, nobody could name the other port.
	if _, r, _ := associate(nil, 0, even); r.Stack[0].Value != ParityEven6 {
		t.Errorf("the relay is asked for %+v", r)
	}
	// What is kept ends with the association that has had it kept.
	last, _, reply := associate(two, 0, even)
	for range 6 {
		echo = receive(t, e.begun)
	}
	last.Close()
	receive(t, echo.closed)
	if _, r, _ := associate(two, reply.Bound.Port^1, nil); r.Dst.Port != 0 {
		t.Error("a port is named after its association")
	}
}
