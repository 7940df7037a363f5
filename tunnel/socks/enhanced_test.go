package socks

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// enhance puts a connection into enhanced UDP mode.
func enhance(t testing.TB, door string) net.Conn {
	t.Helper()
	c := dial(t, door)
	send(t, c, "\x05\x01\x00"+string(unhex(t, "05040001000000000000")))
	expect(t, c, "\x05\x00"+string(unhex(t, "01000001000000000000")))
	return c
}

// ask sends a request in hex and gives the reply, which has IPv4 addresses.
func askControl(t testing.TB, c net.Conn, request string) control {
	t.Helper()
	send(t, c, string(unhex(t, request)))
	return readControl(t, c)
}

func readControl(t testing.TB, c net.Conn) control {
	t.Helper()
	b := make([]byte, 27)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	if b[0] != controlReply || binary.BigEndian.Uint16(b[1:]) != 27 || b[6] != 0 {
		t.Fatalf("%x is no reply of 27 bytes", b)
	}
	r, err := parseControl(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	unicastBind  = "01001b 05 0007 00 0005 00000000 01c6336407 1770 01c0000235 0035" // of spec
	enclosedBind = "01001b 05 000b 00 0006 00000000 01c6336407 1770 01c0000235 0035"
)

func TestVectorsOfEnhancedUDPMode(t *testing.T) {
	client := Addr{IP: netip.MustParseAddr("198.51.100.7"), Port: 5004}
	group := Addr{IP: netip.MustParseAddr("233.252.0.1"), Port: 5004}
	for packet, want := range map[string]control{
		"01001b0500310000010000000001c6336407138c01e9fc0001138c": {5, 0x31, 1, 0, client, group},
		"01001b0500321000020000002a01c6336407138c01e9fc0001138c": {5, 0x32, 2, 0x2a, client, group},
		"01001b0700002000030000002a0100000000000001000000000000": {7, 0, 3, 0x2a, Addr{IP: netip.IPv4Unspecified()}, Addr{IP: netip.IPv4Unspecified()}},
		"01001b0500070000050000000001c6336407177001c00002350035": {5, 7, 5, 0, Addr{IP: client.IP, Port: 6000}, here},
		"0100130600030000040000002a000000000000":                 {6, 3, 4, 0x2a, Addr{}, Addr{}}, // without addresses
	} {
		if c, err := parseControl(unhex(t, packet)); err != nil || c != want {
			t.Errorf("%s: %+v, %v", packet, c, err)
		}
	}
	for packet, want := range map[string]control{
		"01000d0700002000030000002a": {7, 0, 3, 0x2a, Addr{}, Addr{}},
		"01000d0600030000040000002a": {6, 3, 4, 0x2a, Addr{}, Addr{}},
	} {
		if c, err := parseControl(unhex(t, packet)); err == nil || c != want {
			t.Errorf("short %s: %+v, %v", packet, c, err)
		}
	}
	for packet, c := range map[string]control{
		"02001b0000310000010000002a01cb0071019c4a01e9fc0001138c": {0, 0x31, 1, 0x2a, Addr{IP: netip.MustParseAddr("203.0.113.1"), Port: 40010}, group},
		"02001b1500000000030000002a0100000000000001000000000000": {0x15, 0, 3, 0x2a, Addr{}, Addr{}},
	} {
		if b := c.appendReply(nil); !bytes.Equal(b, unhex(t, packet)) {
			t.Errorf("reply %x, want %s", b, packet)
		}
	}
	if b := appendUDPPlus(nil, 0x2a, []byte("hi")); !bytes.Equal(b, unhex(t, "000000000000002a6869")) {
		t.Errorf("over UDP: %x", b)
	}
	if b := appendEnclosed(nil, 0x2a, []byte("hi")); !bytes.Equal(b, unhex(t, "0300090000002a6869")) {
		t.Errorf("on the connection: %x", b)
	}
}

func TestEnhancedUDPModeIsEnteredWithoutAnAddressToo(t *testing.T) {
	c := dial(t, openDoor(t, &Door{Relay: newEchoes()}))
	send(t, c, "\x05\x01\x00"+string(unhex(t, "05040000000000000000")))
	expect(t, c, "\x05\x00"+string(unhex(t, "01000001000000000000")))
	if r := askControl(t, c, "01000d 06 0003 00 0001 00000009"); r.command != byte(badAssociation) {
		t.Errorf("reply %+v", r)
	}
}

func TestDoorsWithoutUDPHaveNoEnhancedMode(t *testing.T) {
	c := dial(t, openDoor(t, &Door{Relay: newEchoes(), UDP: UDP{Off: true}}))
	send(t, c, "\x05\x01\x00"+string(unhex(t, "05040001000000000000")))
	expect(t, c, "\x05\x00"+string(unhex(t, "05070001000000000000")))
	expectEnd(t, c)
}

// bindUnicast gives an association of enhanced UDP mode, and its app.
func bindUnicast(t testing.TB, c net.Conn, e *echoes, request string) (control, *echo, *net.UDPConn) {
	t.Helper()
	r := askControl(t, c, request)
	if r.command != 0 {
		t.Fatalf("refused: %+v", r)
	}
	own := listenUDP(t, netip.MustParseAddr("127.0.0.1"), 0)
	receive(t, e.asked)
	return r, receive(t, e.begun), own
}

func addrPort(a Addr) netip.AddrPort { return netip.AddrPortFrom(a.IP, a.Port) }

// plus gives a packet over UDP.
func plus(id uint32, payload string) string { return string(appendUDPPlus(nil, id, []byte(payload))) }

func TestAssociationsOfEnhancedModeHaveOnePeer(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	r, echo, own := bindUnicast(t, c, e, unicastBind)
	if r.flags != 7 || r.transaction != 5 || r.association == 0 || r.local.IP.String() != "127.0.0.1" || r.remote.String() != "203.0.113.200:5004" {
		t.Errorf("reply %+v", r)
	}
	to := addrPort(r.local)
	sendTo(t, own, to, plus(r.association, "hello"))
	expectPacket(t, own, plus(r.association, "hello"))
	if d := receive(t, echo.sent); d.Addr != here {
		t.Errorf("sent to %v", d.Addr)
	}
	echo.deliver(Datagram{Addr{IP: here.IP, Port: 54}, []byte("another port")},
		Datagram{Addr{IP: netip.MustParseAddr("192.0.2.54"), Port: 53}, []byte("another host")},
		Datagram{here, []byte("the peer")})
	expectPacket(t, own, plus(r.association, "the peer"))

	neighbour := listenUDP(t, netip.MustParseAddr("127.0.0.1"), 0)
	sendTo(t, neighbour, to, plus(r.association, "foreign"))
	sendTo(t, own, to, plus(r.association+1, "another association"))
	sendTo(t, own, to, plus(r.association, "")[:headUDPPlus-1])
	large := strings.Repeat("x", maxUDP-headUDPPlus)
	sendTo(t, own, to, plus(r.association, large))
	expectPacket(t, own, plus(r.association, large))
}

func TestEachAssociationOfEnhancedModeHasItsOwnPort(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	r1, _, own1 := bindUnicast(t, c, e, unicastBind)
	r2, _, own2 := bindUnicast(t, c, e, "01001b 05 0007 00 0006 00000000 01c6336407 1770 01c0000236 0035")
	if r1.association == r2.association || r1.local == r2.local {
		t.Fatalf("%+v and %+v", r1, r2)
	}
	sendTo(t, own1, addrPort(r1.local), plus(r1.association, "one"))
	sendTo(t, own2, addrPort(r2.local), plus(r2.association, "two"))
	expectPacket(t, own1, plus(r1.association, "one"))
	expectPacket(t, own2, plus(r2.association, "two"))
}

func TestInterleavedFragmentsComeOutWhole(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	r, _, own := bindUnicast(t, c, e, unicastBind)
	part := func(frag byte, datagram byte, payload string) {
		b := []byte(plus(r.association, payload))
		b[1], b[3] = frag, datagram
		sendTo(t, own, addrPort(r.local), string(b))
	}
	part(1, 1, "A")
	part(1, 2, "a")
	part(0, 0, "whole")
	part(0x82, 9, "of nothing")
	part(0x82, 2, "b")
	part(0x82, 1, "B")
	for _, want := range []string{"whole", "ab", "AB"} {
		expectPacket(t, own, plus(r.association, want))
	}
	for i := range byte(maxSequences + 1) { // the first has to go
		part(1, i, "A")
	}
	part(0x82, 0, "lost")
	part(0x82, 1, "B")
	expectPacket(t, own, plus(r.association, "AB"))
}

func TestFragmentsOfEnhancedModeAreForgottenInTime(t *testing.T) {
	u := &enhancedUDP{mode: &enhanced{app: &app{door: &serving{}}}, remote: here}
	desk := &u.mode.app.door.udp
	now := time.Unix(1000, 0)
	first := now.Add(fragmentTimeout)
	for i := range 3 {
		u.add(now, udpPlus{frag: 1, datagram: uint16(i)}, Datagram{here, []byte("AB")})
		now = now.Add(time.Second)
	}
	if next := u.forget(now); next != first || desk.unfinished.Load() != 6 {
		t.Errorf("%d bytes are kept until %v", desk.unfinished.Load(), next)
	}
	if next := u.forget(first); next != first.Add(time.Second) || len(u.fragments) != 2 {
		t.Errorf("%d are kept until %v", len(u.fragments), next)
	}
	u.drop()
	if desk.unfinished.Load() != 0 || !u.forget(now).IsZero() {
		t.Errorf("%d bytes are kept", desk.unfinished.Load())
	}
}

func TestDatagramsTravelOnTheConnection(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	r := askControl(t, c, enclosedBind)
	if r.command != 0 || r.flags != 0xb || r.local != (Addr{IP: netip.IPv4Unspecified()}) || r.remote.Port != 5004 {
		t.Fatalf("reply %+v", r)
	}
	echo := receive(t, e.begun)
	for _, payload := range []string{"hi", "", strings.Repeat("x", maxUDP)} {
		packet := string(appendEnclosed(nil, r.association, []byte(payload)))
		for _, piece := range []string{packet[:1], packet[1:2], packet[2:5], packet[5:]} {
			send(t, c, piece)
		}
		expect(t, c, packet)
		if d := receive(t, echo.sent); d.Addr != here || string(d.Payload) != payload {
			t.Errorf("sent %d bytes to %v", len(d.Payload), d.Addr)
		}
	}
	send(t, c, string(appendEnclosed(nil, r.association+1, []byte("of nobody"))))
	send(t, c, string(appendEnclosed(nil, r.association, make([]byte, maxEnclosed)))) // longer than a datagram
	send(t, c, "\x09\x00\x05xx")                                                      // of a type that nobody knows
	echo.deliver(Datagram{there, []byte("a name")}, Datagram{here, make([]byte, maxEnclosed+1)}, Datagram{here, []byte("the peer")})
	expect(t, c, string(appendEnclosed(nil, r.association, []byte("the peer"))))
	if n := len(echo.sent); n > 0 {
		t.Errorf("%d more datagrams were sent", n)
	}
}

func TestSlowConnectionsLoseDatagramsAndNoReplies(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	r := askControl(t, c, enclosedBind)
	echo := receive(t, e.begun)
	payload := bytes.Repeat([]byte("x"), 60000)
	for range 1000 { // which is more than all queues hold
		echo.deliver(Datagram{here, payload})
	}
	send(t, c, string(unhex(t, "01000d 07 0000 20 0003 00000001")))
	got := 0
	for {
		var head [headEnhanced]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			t.Fatal(err)
		}
		rest := make([]byte, int(binary.BigEndian.Uint16(head[1:]))-len(head))
		if _, err := io.ReadFull(c, rest); err != nil {
			t.Fatal(err)
		}
		if head[0] == controlReply {
			break
		}
		if !bytes.Equal(rest, slices.Concat([]byte{0, 0, 0, byte(r.association)}, payload)) {
			t.Fatal("a datagram was mixed up with another")
		}
		got++
	}
	if got == 0 || got == 1000 {
		t.Errorf("%d datagrams have come", got)
	}
}

func TestDirectionsAreAddedAndReleased(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	r := askControl(t, c, strings.Replace(enclosedBind, "000b", "0009", 1)) // receive alone
	if r.command != 0 || r.flags != 9 {
		t.Fatalf("reply %+v", r)
	}
	echo := receive(t, e.begun)
	data := func(payload string) string { return string(appendEnclosed(nil, r.association, []byte(payload))) }
	send(t, c, data("not allowed"))
	echo.deliver(Datagram{here, []byte("allowed")})
	expect(t, c, data("allowed"))

	add := strings.Replace(strings.Replace(enclosedBind, "000b", "000a", 1), "0006 00000000", "0007 00000001", 1)
	if again := askControl(t, c, add); again.command != 0 || again.flags != 0xa || again.association != r.association {
		t.Fatalf("reply %+v", again)
	}
	send(t, c, data("both"))
	expect(t, c, data("both"))
	if r := askControl(t, c, "01000d 06 0001 00 0008 00000001"); r.command != 0 || r.flags != 1 || r.association != 1 || r.transaction != 8 {
		t.Errorf("reply %+v", r)
	}
	send(t, c, data("up alone"))
	for _, want := range []string{"both", "up alone"} {
		if d := receive(t, echo.sent); string(d.Payload) != want {
			t.Errorf("sent %q, want %q", d.Payload, want)
		}
	}
	if r := askControl(t, c, "01001b 06 0003 00 0009 00000001 01000000000000 01000000000000"); r.command != 0 || r.flags != 3 {
		t.Errorf("reply %+v", r)
	}
	receive(t, echo.closed)
	if r := askControl(t, c, "01000d 06 0003 00 000a 00000001"); r.command != byte(badAssociation) {
		t.Errorf("reply %+v", r)
	}
	if r := askControl(t, c, unicastBind); r.command != 0 || r.association == 1 { // the connection goes on
		t.Errorf("reply %+v", r)
	}
}

func TestWhatCannotBeBoundIsRefused(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	const from = "01c6336407 1770 "
	for request, want := range map[string]struct {
		code  Code
		flags udpFlags
	}{
		"01001b 05 0031 00 0001 00000000 01c6336407 138c 01e9fc0001 138c":              {noMulticastReceive, 0}, // of spec
		"01001b 05 0032 10 0002 00000000 01c6336407 138c 01e9fc0001 138c":              {noMulticastSend, 0},
		"01001b 05 0033 10 0002 00000000 01c6336407 138c 01e9fc0001 138c":              {noMulticastReceive, 0},
		"01001b 05 0039 00 0001 00000000 01c6336407 138c 01e9fc0001 138c":              {noMulticastReceive, 0},
		"01001b 05 000f 00 0001 00000000 " + from + "01c0000235 0035":                  {GeneralFailure, 7},      // two transports
		"01001b 05 0003 00 0001 00000000 " + from + "01c0000235 0035":                  {GeneralFailure, 7},      // none
		"01001b 05 0004 00 0001 00000000 " + from + "01c0000235 0035":                  {GeneralFailure, 4},      // no direction
		"01001b 05 0007 00 0001 00000000 " + from + "01c0000235 0000":                  {AddressNotSupported, 0}, // no port
		"01001b 05 0007 00 0001 00000000 " + from + "0100000000 0035":                  {AddressNotSupported, 0}, // nobody
		"010023 05 0007 00 0001 00000000 " + from + "030b 6578616d706c652e636f6d 0035": {AddressNotSupported, 6},
		"01001b 05 0007 00 0001 00000000 " + from + "02c0000235 0035":                  {AddressNotSupported, 0}, // type of address
		"010019 05 0007 00 0001 00000000 " + from + "01c0000235":                       {GeneralFailure, 0},      // cut short
		"01000d 05 0007 00 0001 00000000":                                              {GeneralFailure, 0},
		"01001b 05 0007 00 0001 00000063 " + from + "01c0000235 0035":                  {badAssociation, 0},
		"01000d 07 0000 20 0001 00000063":                                              {badAssociation, 0},
		"01000d 08 0000 00 0001 00000063":                                              {CommandNotSupported, 0},
	} {
		if r := askControl(t, c, request); r.command != byte(want.code) || r.flags != want.flags || r.local.Port != 0 || r.remote.Port != 0 {
			t.Errorf("%s: %+v, want %#x and %#x", request, r, byte(want.code), want.flags)
		}
	}
	if n := len(e.asked); n > 0 {
		t.Errorf("the relay was asked %d times", n)
	}
	r := askControl(t, c, unicastBind)
	if r.command != 0 {
		t.Fatalf("the connection is of no use any more: %+v", r)
	}
	for request, want := range map[string]Code{
		"01001b 05 000b 00 0001 00000001 " + from + "01c0000235 0035":     badContext, // another transport
		"01001b 05 0007 00 0001 00000001 " + from + "01c0000236 0035":     badContext, // another peer
		"01001b 05 0007 00 0001 00000001 01c6336407 1771 01c0000235 0035": badContext, // another port of the app's
		"01000d 07 0000 20 0001 00000001":                                 badContext, // TTL of no multicast
		"01000d 06 0000 00 0001 00000001":                                 GeneralFailure,
	} {
		if r := askControl(t, c, request); r.command != byte(want) {
			t.Errorf("%s: %+v, want %#x", request, r, byte(want))
		}
	}
}

func TestNamesMayBeSentToOnly(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	r := askControl(t, c, "010023 05 0006 00 0001 00000000 01c6336407 1770 030b 6578616d706c652e636f6d 0035")
	if r.command != 0 || r.flags != 6 {
		t.Fatalf("reply %+v", r)
	}
	own := listenUDP(t, netip.MustParseAddr("127.0.0.1"), 0)
	sendTo(t, own, addrPort(r.local), plus(r.association, "hello"))
	if d := receive(t, receive(t, e.begun).sent); d.Addr != there {
		t.Errorf("sent to %v", d.Addr)
	}
}

func TestRefusalsOfTheRelayReachTheAppInEnhancedMode(t *testing.T) {
	e := newEchoes()
	e.fails = NotAllowed
	c := enhance(t, openDoor(t, &Door{Relay: e, UDP: UDP{MaxAssociations: 4}}))
	for _, request := range []string{unicastBind, enclosedBind, unicastBind, enclosedBind} { // with room for one
		if r := askControl(t, c, request); r.command != byte(NotAllowed) {
			t.Errorf("reply %+v", r)
		}
	}
}

func TestAssociationsOfEnhancedModeHaveLimits(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e, UDP: UDP{MaxAssociations: 8}}))
	for _, request := range []string{unicastBind, enclosedBind} {
		if r := askControl(t, c, request); r.command != 0 {
			t.Fatalf("reply %+v", r)
		}
	}
	if r := askControl(t, c, enclosedBind); r.command != byte(GeneralFailure) {
		t.Errorf("one more than a host may have: %+v", r)
	}
	if r := askControl(t, c, "01000d 06 0003 00 0008 00000001"); r.command != 0 {
		t.Errorf("reply %+v", r)
	}
	if r := askControl(t, c, enclosedBind); r.command != 0 {
		t.Errorf("after a release: %+v", r)
	}

	c = enhance(t, openDoor(t, &Door{Relay: e}))
	for range maxEnhanced {
		if r := askControl(t, c, enclosedBind); r.command != 0 {
			t.Fatalf("reply %+v", r)
		}
	}
	if r := askControl(t, c, enclosedBind); r.command != byte(GeneralFailure) {
		t.Errorf("one more than a connection may have: %+v", r)
	}
}

func TestAssociationsOfEnhancedModeEndWithTheirConnection(t *testing.T) {
	for name, end := range map[string]func(c net.Conn){
		"close":         func(c net.Conn) { c.Close() },
		"framing":       func(c net.Conn) { send(t, c, "\x01\x00\x0c") },
		"shorter":       func(c net.Conn) { send(t, c, "\x03\x00\x06") },
		"shorter still": func(c net.Conn) { send(t, c, "\x09\x00\x02") },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEchoes()
			c := enhance(t, openDoor(t, &Door{Relay: e}))
			for range 2 {
				askControl(t, c, unicastBind)
				askControl(t, c, enclosedBind)
			}
			ended := time.Now()
			end(c)
			for range 4 {
				receive(t, receive(t, e.begun).closed)
			}
			if d := time.Since(ended); d > time.Second {
				t.Errorf("the associations have lasted %v longer", d)
			}
		})
	}
}

func TestConnectionsInEnhancedModeEndWithAnAssociation(t *testing.T) {
	e := newEchoes()
	c := enhance(t, openDoor(t, &Door{Relay: e}))
	askControl(t, c, unicastBind)
	askControl(t, c, enclosedBind)
	first, second := receive(t, e.begun), receive(t, e.begun)
	close(first.over)
	expectEnd(t, c)
	receive(t, first.closed)
	receive(t, second.closed)
}

func TestAppsThatGoWhileTheyBindAreNoticed(t *testing.T) {
	e := newEchoes()
	e.proceed = make(chan struct{})
	door := openDoor(t, &Door{Relay: e})
	c := enhance(t, door)
	send(t, c, string(unhex(t, unicastBind)))
	receive(t, e.asked)
	for range 2 * maxCommands { // and what waits meanwhile has a bound
		send(t, c, string(unhex(t, enclosedBind)))
	}
	if r := readControl(t, c); r.command != byte(GeneralFailure) {
		t.Errorf("reply %+v", r)
	}
	c.Close() // the door's goroutines end, which is seen when all tests have run
}

// FuzzControl checks that requests that parse say what is in them, and that addresses
// come back as they were.
func FuzzControl(f *testing.F) {
	for _, s := range []string{unicastBind, enclosedBind, "01000d0700002000030000002a", "0100130600030000040000002a000000000000",
		"010023 05 0006 00 0001 00000000 01c6336407 1770 030b 6578616d706c652e636f6d 0035"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headControl {
			return
		}
		c, err := parseControl(b)
		if c.command != b[3] || c.association != binary.BigEndian.Uint32(b[9:]) || c.transaction != binary.BigEndian.Uint16(b[7:]) {
			t.Errorf("%x: %+v", b, c)
		}
		if err != nil || c.local.Name != "" || c.remote.Name != "" || !c.local.IP.IsValid() || !c.remote.IP.IsValid() {
			return
		}
		again, err := parseControl(c.appendReply(nil))
		if err != nil || again != c {
			t.Errorf("%+v is written as %+v, %v", c, again, err)
		}
	})
}

// FuzzEnhancedUDP checks that packets over UDP lead to the one peer only, and only if
// they are of the association.
func FuzzEnhancedUDP(f *testing.F) {
	f.Add(unhex(f, "000000000000002a6869"))
	f.Add(unhex(f, "008100010000002a6869"))
	f.Add(unhex(f, "008000010000002a6869"))
	from := netip.MustParseAddrPort("127.0.0.1:5004")
	f.Fuzz(func(t *testing.T, packet []byte) {
		u := &enhancedUDP{id: 0x2a, remote: here, socket: &udpSocket{}, mode: &enhanced{app: &app{door: &serving{}}}}
		u.socket.settle(from)
		u.allow(udpSend)
		for _, d := range u.unpack(nil, time.Unix(1000, 0), from, packet) {
			if d.Addr != here || binary.BigEndian.Uint32(packet[4:]) != u.id || !bytes.Equal(d.Payload, packet[headUDPPlus:]) {
				t.Errorf("%x: %v", packet, d)
			}
		}
		if u.unpack(nil, time.Unix(1000, 0), netip.MustParseAddrPort("127.0.0.1:5005"), packet) != nil {
			t.Errorf("%x of another sender", packet)
		}
		u.drop()
		if n := u.mode.app.door.udp.unfinished.Load(); n != 0 {
			t.Errorf("%d bytes are kept", n)
		}
	})
}
