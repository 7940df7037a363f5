package socks

import (
	"bytes"
	"encoding"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// random6 makes messages that SOCKS 6 can carry, as they look after a round
// trip.
type random6 struct{ *rand.Rand }

func (r random6) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (r random6) ip() netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte(r.bytes(4)))
	}
	return netip.AddrFrom16([16]byte(r.bytes(16)))
}

func (r random6) addr() Addr {
	a := Addr{Port: uint16(r.Uint32())}
	if r.IntN(2) == 0 {
		a.IP = r.ip()
		return a
	}
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-_."
	name := []byte("n") // no IP address begins with it
	for range r.IntN(255) {
		name = append(name, letters[r.IntN(len(letters))])
	}
	a.Name = string(name)
	return a
}

func (r random6) stack() (options []StackOption6) {
	kinds := []StackKind6{
		StackTOS6, StackHappyEyeballs6, StackTTL6, StackNoFragmentation6, StackFastOpen6,
		StackMultipath6, StackBacklog6, StackUDPErrors6, StackPortParity6,
	}
	for _, i := range r.Perm(len(kinds))[:r.IntN(len(kinds))] {
		s := StackOption6{Leg: TargetLeg6, Kind: kinds[i]}
		if legs, _ := s.Kind.format(); legs == BothLegs6 {
			s.Leg = Leg6(1 + r.IntN(3))
		}
		for s.Value = uint16(r.Uint32()); !s.Kind.accepts(s.Value); {
			s.Value = uint16(r.Uint32()) & 0x0203
		}
		options = append(options, s)
	}
	return options
}

func (r random6) auth() (data []AuthData6) {
	for range r.IntN(4) {
		data = append(data, AuthData6{Method: byte(len(data)*64 + r.IntN(64)), Data: r.bytes(3 + 4*r.IntN(80))})
	}
	return data
}

func (r random6) request() encoding.BinaryAppender {
	q := Request6{Command: Command(r.IntN(256)), Dst: r.addr()}
	if q.Command == Noop {
		q.Dst = Addr{IP: netip.IPv6Unspecified()}
	}
	o := &q.Options
	o.Stack, o.Auth = r.stack(), r.auth()
	if r.IntN(2) == 0 {
		o.Offer = &MethodOffer6{Methods: bytes.ReplaceAll(r.bytes(1+r.IntN(20)), []byte{0}, []byte{2})}
		if q.Command == Connect {
			o.Offer.InitialData = uint16(r.IntN(MaxInitialData6 + 1))
		}
	}
	switch r.IntN(4) {
	case 0:
		o.SessionRequest = true
	case 1:
		o.SessionID = r.bytes(4 + 4*r.IntN(30))
		o.SessionTeardown = r.IntN(2) == 0
	}
	o.WindowRequest = uint32(r.IntN(maxWindow6 + 1))
	if r.IntN(2) == 0 {
		o.Token = new(r.Uint32())
	}
	return q
}

func (r random6) authReply() encoding.BinaryAppender {
	p := AuthReply6{OK: r.IntN(2) == 0}
	o := &p.Options
	o.Auth = r.auth()
	if r.IntN(2) == 0 {
		o.Selected = new(byte(r.Uint32()))
	}
	if r.IntN(2) == 0 {
		o.SessionID = r.bytes(4 + 4*r.IntN(30))
	}
	if r.IntN(2) == 0 {
		o.SessionOK, o.SessionInvalid = p.OK, !p.OK
	}
	if r.IntN(2) == 0 {
		o.TokenAccepted, o.TokenRejected = p.OK, !p.OK
	}
	if r.IntN(2) == 0 {
		o.Window = &TokenWindow6{Base: r.Uint32(), Size: 1 + uint32(r.IntN(maxWindow6))}
	}
	return p
}

func (r random6) operationReply() encoding.BinaryAppender {
	p := OperationReply6{Code: Code(r.IntN(256)), Bound: r.addr()}
	p.Options.Stack = r.stack()
	if r.IntN(2) == 0 {
		p.Options.SessionID = r.bytes(4 + 4*r.IntN(30))
	}
	return p
}

func (r random6) udp() encoding.BinaryAppender {
	m := UDPMessage6{Type: UDPType6(1 + r.IntN(4)), Association: r.Uint64()}
	switch m.Type {
	case UDPDatagram6:
		m.Addr, m.Payload = r.addr(), r.bytes(r.IntN(1500))
	case UDPError6:
		m.Addr = Addr{IP: r.ip(), Port: uint16(r.Uint32())}
		m.Cause, m.Reporter = UDPCause6(1+r.IntN(4)), r.ip()
	}
	return m
}

func TestSocks6MessagesComeBackAsTheyWere(t *testing.T) {
	for kind, random := range map[string]func(random6) encoding.BinaryAppender{
		"request": random6.request, "auth-reply": random6.authReply, "operation-reply": random6.operationReply, "udp": random6.udp,
	} {
		r := random6{rand.New(rand.NewPCG(6, 6))}
		for range 2000 {
			want := random(r)
			b, err := want.AppendBinary(nil)
			if err != nil {
				t.Fatalf("encode %+v: %v", want, err)
			}
			got, err := read6(kind, bytes.NewReader(b))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%x, which is %+v, came back as %+v, %v", b, want, got, err)
			}
		}
	}
}

// fuzz6 asserts that what can be read can be sent, that it is the same then,
// and that nothing behind a message is read.
func fuzz6(t *testing.T, kind string, b []byte) {
	r := bytes.NewReader(append(b[:len(b):len(b)], strings.Repeat("x", 1<<16)...))
	first, err := read6(kind, r)
	if err != nil {
		return
	}
	size := int(r.Size()) - r.Len()
	if size > len(b) {
		return // the payload has completed the message
	}
	if _, err := read6(kind, bytes.NewReader(b[:size])); err != nil {
		t.Fatalf("%x reads well with more behind it, and %v without", b[:size], err)
	}
	encoded, err := first.AppendBinary(nil)
	if err != nil {
		t.Fatalf("%x was read as %+v, which cannot be sent: %v", b, first, err)
	}
	second, err := read6(kind, bytes.NewReader(encoded))
	if err != nil || !reflect.DeepEqual(first, second) {
		t.Fatalf("%+v came back as %+v, %v", first, second, err)
	}
}

// seed6 adds all vectors of some kinds, and such messages with many options.
func seed6(f *testing.F, kinds ...string) {
	for _, v := range vectors6(f) {
		for _, kind := range kinds {
			if v.kind == kind {
				f.Add(v.bytes)
			}
		}
	}
	for _, kind := range kinds {
		if kind != "udp" {
			f.Add(withOptions6(kind, bytes.Repeat([]byte{0xfc, 0, 0, 4}, 65)))
		}
	}
}

func FuzzRequest6(f *testing.F) {
	seed6(f, "request")
	f.Fuzz(func(t *testing.T, b []byte) { fuzz6(t, "request", b) })
}

func FuzzReply6(f *testing.F) {
	seed6(f, "auth-reply", "auth-refusal", "operation-reply")
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzz6(t, "auth-reply", b)
		fuzz6(t, "operation-reply", b)
	})
}

func FuzzDatagram6(f *testing.F) {
	seed6(f, "udp")
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzz6(t, "udp", b)
		fromPacket, packetErr := ParseUDPMessage6(b)
		fromStream, streamErr := read6("udp", bytes.NewReader(b))
		if (packetErr == nil) != (streamErr == nil) || packetErr == nil && !reflect.DeepEqual(fromPacket, fromStream) {
			t.Fatalf("%x is %+v, %v as a packet and %+v, %v in a stream", b, fromPacket, packetErr, fromStream, streamErr)
		}
	})
}
