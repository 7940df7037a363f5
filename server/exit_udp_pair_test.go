package server

import (
	"errors"
	"net"
	"slices"
	"testing"

	"github.com/adit-net/adit/tunnel/socks"
)

// parity gives the option that asks for a port.
func parity(value uint16) []socks.StackOption6 {
	return []socks.StackOption6{{Leg: socks.TargetLeg6, Kind: socks.StackPortParity6, Value: value}}
}

// wants gives a request for an association, of a user.
func wants(user string, port, value uint16) socks.Request {
	r := socks.Request{Command: socks.Associate, Dialect: socks.SOCKS6, User: user, Dst: socks.Addr{IP: anybody.IP, Port: port}}
	if value != noParity {
		r.Stack = parity(value)
	}
	return r
}

// noParity asks for none.
const noParity = 0xffff

func associateAs(t testing.TB, e *Exit, r socks.Request) (socks.Association, socks.Reply) {
	t.Helper()
	a, reply, err := e.Associate(t.Context(), r, newMailbox())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a, reply
}

// isFree tells whether a port can be opened.
func isFree(port uint16) bool {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func TestPortsHaveTheParityThatIsAskedFor(t *testing.T) {
	e := &Exit{}
	for _, want := range []uint16{
		socks.ParityEven6, socks.ParityOdd6,
		socks.ParityReserve6, socks.ParityEven6 | socks.ParityReserve6, socks.ParityOdd6 | socks.ParityReserve6,
	} {
		for range 20 {
			a, reply := associateAs(t, e, wants("anna", 0, want))
			port := reply.Bound.Port()
			if !slices.Equal(reply.Stack, parity(want)) {
				t.Errorf("%#04x: granted is %v", want, reply.Stack)
			}
			if want&socks.ParityEven6 != 0 && port%2 != 0 || want&socks.ParityOdd6 != 0 && port%2 != 1 {
				t.Errorf("%#04x: the port is %d", want, port)
			}
			if want&socks.ParityReserve6 != 0 && isFree(port^1) {
				t.Errorf("%#04x: the other port is free", want)
			}
			a.Close()
		}
	}
	if n := e.shared().open.Load(); n != 0 || len(e.shared().spares.byPort) != 0 {
		t.Errorf("%d associations and %d ports are left", n, len(e.shared().spares.byPort))
	}
	if _, reply := associateAs(t, e, wants("anna", 0, noParity)); reply.Stack != nil {
		t.Errorf("without being asked: %v", reply.Stack)
	}
}

func TestKeptPortIsForAnotherAssociationOfItsUser(t *testing.T) {
	e := &Exit{Allow: toLoopback}
	first, reply := associateAs(t, e, wants("anna", 0, socks.ParityEven6|socks.ParityReserve6))
	kept := reply.Bound.Port() + 1
	other := wants("anna", kept, noParity)
	other.Dialect = socks.SOCKS5
	for _, r := range []socks.Request{wants("bert", kept, noParity), wants("anna", kept-1, noParity), other} {
		if _, reply := associateAs(t, e, r); reply.Bound.Port() == kept {
			t.Errorf("%+v gets the port", r)
		}
	}
	// Whoever names a port has chosen its parity.
	second, reply := associateAs(t, e, wants("anna", kept, socks.ParityEven6))
	if reply.Bound.Port() != kept || reply.Stack != nil {
		t.Fatalf("the second port is %s, not %d; %v", reply.Bound, kept, reply.Stack)
	}
	first.Close()
	at := udpEcho(t, "127.0.0.1:0")
	second.Send(to(at, "x"))
	if d := second.(*association).in.(*mailbox).next(t); string(d.Payload) != "x" {
		t.Errorf("%q came", d.Payload)
	}
	if _, reply := associateAs(t, e, wants("anna", kept, noParity)); reply.Bound.Port() == kept {
		t.Error("a port serves two associations")
	}
	second.Close()
	if n := e.shared().open.Load(); n != 4 {
		t.Errorf("%d associations are counted", n)
	}
}

func TestKeptPortIsFreeAfterItsAssociation(t *testing.T) {
	e := &Exit{}
	first, reply := associateAs(t, e, wants("anna", 0, socks.ParityReserve6))
	other := reply.Bound.Port() ^ 1
	first.Close()
	if !isFree(other) {
		t.Errorf("port %d is not free", other)
	}
}

func TestKeptPortsCountAsAssociations(t *testing.T) {
	e := &Exit{Associations: 1}
	a, reply := associateAs(t, e, wants("anna", 0, socks.ParityEven6|socks.ParityReserve6))
	if !slices.Equal(reply.Stack, parity(socks.ParityEven6)) {
		t.Errorf("granted is %v", reply.Stack)
	}
	a.Close()
	e.Associations = 2
	_, reply = associateAs(t, e, wants("anna", 0, socks.ParityEven6|socks.ParityReserve6))
	if _, _, err := e.Associate(t.Context(), wants("anna", 0, noParity), newMailbox()); err == nil {
		t.Error("there is one association more than there may be")
	}
	associateAs(t, e, wants("anna", reply.Bound.Port()+1, noParity))
}

func TestAnExitThatFollowsAnotherKnowsWhatThatHasOpen(t *testing.T) {
	before := &Exit{Associations: 2}
	_, reply := associateAs(t, before, wants("anna", 0, socks.ParityEven6|socks.ParityReserve6))
	kept := reply.Bound.Port() + 1
	e := &Exit{Associations: 2}
	e.Follow(before)
	if _, _, err := e.Associate(t.Context(), wants("bert", 0, noParity), nil); !errors.Is(err, errAssociations) {
		t.Errorf("one too many: %v", err)
	}
	if _, reply := associateAs(t, e, wants("anna", kept, noParity)); reply.Bound.Port() != kept {
		t.Errorf("the second port is %s, not %d", reply.Bound, kept)
	}
}
