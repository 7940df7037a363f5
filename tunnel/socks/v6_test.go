package socks

import (
	"bytes"
	"encoding"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func unhex6(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSocks6TakesBothPaddingsOfNames(t *testing.T) {
	for name, b := range map[string]string{
		"counted":     "0601 0000 01bb 0003 0b 612e6578616d706c65 0000",
		"not counted": "0601 0000 01bb 0003 09 612e6578616d706c65 0000",
		"not zero":    "0601 0000 01bb 0003 09 612e6578616d706c65 ffff",
	} {
		q, err := ReadRequest6(bytes.NewReader(unhex6(t, b)))
		if want := (Addr{Name: "a.example", Port: 443}); err != nil || q.Dst != want {
			t.Errorf("%s: %+v, %v; want %+v", name, q, err, want)
		}
	}
}

func TestSocks6NamesThatAreAddressesBecomeAddresses(t *testing.T) {
	q, err := ReadRequest6(bytes.NewReader(unhex6(t, "0601 0000 0050 0003 0b 3132372e302e302e31 0000")))
	if want := netip.MustParseAddr("127.0.0.1"); err != nil || q.Dst.IP != want || q.Dst.Name != "" {
		t.Errorf("decoded as %+v, %v; want %v", q.Dst, err, want)
	}
	b, err := Request6{Command: Connect, Dst: Addr{Name: "127.0.0.1", Port: 80}}.AppendBinary(nil)
	if want := unhex6(t, "0601 0000 0050 0001 7f000001"); err != nil || !bytes.Equal(b, want) {
		t.Errorf("encoded as %x, %v; want %x", b, err, want)
	}
}

func TestSocks6CarriesTheLongestName(t *testing.T) {
	for n := 245; n <= 255; n++ {
		q := Request6{Command: Connect, Dst: Addr{Name: strings.Repeat("a", n), Port: 443}}
		b, err := q.AppendBinary(nil)
		if err != nil || len(b)%4 != 0 {
			t.Fatalf("%d bytes: %d encoded, %v", n, len(b), err)
		}
		got, err := ReadRequest6(bytes.NewReader(b))
		if err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%d bytes: %+v, %v", n, got, err)
		}
	}
}

func TestSocks6JudgesTheVersionByTheFirstByte(t *testing.T) {
	for _, kind := range []string{"request", "auth-reply", "operation-reply", "udp"} {
		for version := range 256 {
			// An error of the reader stands for a peer that sends no second byte.
			r := io.MultiReader(bytes.NewReader([]byte{byte(version)}), stuckReader6{})
			_, err := read6(kind, r)
			want := ErrVersion6
			if version == 6 {
				want = errStuck6
			}
			if !errors.Is(err, want) {
				t.Errorf("%s of version %d: %v, want %v", kind, version, err, want)
			}
		}
	}
	if _, err := ParseUDPMessage6([]byte{5}); !errors.Is(err, ErrVersion6) {
		t.Errorf("packet of version 5: %v", err)
	}
}

func TestSocks6PacketsAreNotShorterThanTheirHead(t *testing.T) {
	_, err := ParseUDPMessage6(unhex6(t, "0603 000b 0102030405060708 01000035 c0000235"))
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v, want a refusal", err)
	}
}

var errStuck6 = errors.New("nothing more comes")

type stuckReader6 struct{}

func (stuckReader6) Read([]byte) (int, error) { return 0, errStuck6 }

func TestSocks6RefusesBadMessagesBeforeItReadsTheirRest(t *testing.T) {
	for name, m := range map[string]struct{ kind, head string }{
		"request, options above 20 KB":         {"request", "0601 5004 0050 0001 c000020a"},
		"request, options of the largest size": {"request", "0601 fffc 0050 0001 c000020a"},
		"request, options not aligned":         {"request", "0601 0006 0050 0001 c000020a"},
		"request, address type 0":              {"request", "0601 0000 0050 0000 c000020a"},
		"request, address type 2":              {"request", "0601 0000 0050 0002 c000020a"},
		"request, address type 5":              {"request", "0601 0000 0050 0005 c000020a"},
		"reply, options above 20 KB":           {"operation-reply", "0600 5004 0050 0001 c000020a"},
		"reply, address type ff":               {"operation-reply", "0600 0000 0050 00ff c000020a"},
		"authentication, options above 20 KB":  {"auth-reply", "0600 5004"},
		"authentication, options not aligned":  {"auth-reply", "0600 0001"},
		"authentication, type 2":               {"auth-reply", "0602 0004"},
		"UDP, shorter than its head":           {"udp", "0603 000b 0102030405060708"},
	} {
		_, err := read6(m.kind, io.MultiReader(bytes.NewReader(unhex6(t, m.head)), stuckReader6{}))
		if err == nil || errors.Is(err, errStuck6) {
			t.Errorf("%s: %v, want the refusal", name, err)
		}
	}
}

func TestSocks6RefusesFieldsOutOfRange(t *testing.T) {
	for name, m := range map[string]struct{ kind, bytes string }{
		"empty name":                        {"request", "0601 0000 0050 0003 00 000000"},
		"name of NULs":                      {"request", "0601 0000 0050 0003 03 000000"},
		"NUL in a name":                     {"request", "0601 0000 0050 0003 03 610062"},
		"line feed in a name":               {"request", "0601 0000 0050 0003 03 610a62"},
		"zone in a name":                    {"request", "0601 0000 0050 0003 0b 666538303a3a3125657430"},
		"NOOP with a name":                  {"request", "0600 0000 0000 0003 03 612e62"},
		"NOOP with an address":              {"request", "0600 0000 0000 0001 00000001"},
		"NOOP with a port":                  {"request", "0600 0000 0001 0001 00000000"},
		"bound name is bad":                 {"operation-reply", "0600 0000 0050 0003 03 612061"},
		"init with more":                    {"udp", "0601 0010 0102030405060708 00000000"},
		"confirmation with more":            {"udp", "0602 000d 0102030405060708 00"},
		"type 0":                            {"udp", "0600 000c 0102030405060708"},
		"type 5":                            {"udp", "0605 000c 0102030405060708"},
		"datagram without address":          {"udp", "0603 0010 0102030405060708 01000035"},
		"datagram with half an address":     {"udp", "0603 0013 0102030405060708 01000035 c00002"},
		"datagram with half a name":         {"udp", "0603 0016 0102030405060708 03000035 0b6578616d70"},
		"datagram with address type 2":      {"udp", "0603 0014 0102030405060708 02000035 c0000235"},
		"error for a name":                  {"udp", "0604 001c 0102030405060708 03000035 03612e62 01020000 c63364fe"},
		"error, address type 0":             {"udp", "0604 001c 0102030405060708 00000035 c0000235 01020000 c63364fe"},
		"error reported by a name":          {"udp", "0604 001c 0102030405060708 01000035 c0000235 03020000 03612e62"},
		"error reported by address type 0":  {"udp", "0604 001c 0102030405060708 01000035 c0000235 00020000 c63364fe"},
		"error without a reporter":          {"udp", "0604 0014 0102030405060708 01000035 c0000235"},
		"error with half a reporter":        {"udp", "0604 001a 0102030405060708 01000035 c0000235 01020000 c633"},
		"error with more than its reporter": {"udp", "0604 001d 0102030405060708 01000035 c0000235 01020000 c63364fe 00"},
		"error without a cause":             {"udp", "0604 001c 0102030405060708 01000035 c0000235 01000000 c63364fe"},
		"error with cause 5":                {"udp", "0604 001c 0102030405060708 01000035 c0000235 01050000 c63364fe"},
	} {
		_, err := read6(m.kind, bytes.NewReader(unhex6(t, m.bytes)))
		if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestSocks6DoesNotEncodeWhatItCannotCarry(t *testing.T) {
	dst := Addr{Name: "example.com", Port: 443}
	v4, v6 := netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::35")
	zone := netip.MustParseAddr("fe80::1%eth0")
	connect := func(a Addr) Request6 { return Request6{Command: Connect, Dst: a} }
	with := func(c Command, o Options6) Request6 { return Request6{Command: c, Options: o} }
	lost := func(a Addr, cause UDPCause6, reporter netip.Addr) UDPMessage6 {
		return UDPMessage6{Type: UDPError6, Addr: a, Cause: cause, Reporter: reporter}
	}
	for name, m := range map[string]encoding.BinaryAppender{
		"CONNECT to nowhere":                 connect(Addr{}),
		"name of 256 bytes":                  connect(Addr{Name: strings.Repeat("a", 256)}),
		"name with a NUL":                    connect(Addr{Name: "a\x00"}),
		"name with a line feed":              connect(Addr{Name: "a\n"}),
		"name with a zone":                   connect(Addr{Name: "fe80::1%eth0"}),
		"zone":                               connect(Addr{IP: zone}),
		"NOOP with a destination":            Request6{Dst: dst},
		"NOOP with a port":                   Request6{Dst: Addr{Port: 1}},
		"initial data without CONNECT":       with(Bind, Options6{Offer: &MethodOffer6{InitialData: 1}}),
		"teardown of no session":             with(Bind, Options6{SessionTeardown: true}),
		"session in a session":               with(Bind, Options6{SessionRequest: true, SessionID: make([]byte, 4)}),
		"reply bound to a bad name":          OperationReply6{Bound: Addr{Name: "a b"}},
		"reply bound to a zone":              OperationReply6{Bound: Addr{IP: zone}},
		"session good and bad":               AuthReply6{Options: Options6{SessionOK: true, SessionInvalid: true}},
		"token good and bad":                 AuthReply6{Options: Options6{TokenAccepted: true, TokenRejected: true}},
		"good in a bad session":              AuthReply6{OK: true, Options: Options6{SessionInvalid: true}},
		"good with a bad token":              AuthReply6{OK: true, Options: Options6{TokenRejected: true}},
		"bad in a good session":              AuthReply6{Options: Options6{SessionOK: true}},
		"UDP type 0":                         UDPMessage6{},
		"UDP type 5":                         UDPMessage6{Type: 5},
		"payload to nowhere":                 UDPMessage6{Type: UDPDatagram6, Payload: []byte("hi")},
		"datagram to a bad name":             UDPMessage6{Type: UDPDatagram6, Addr: Addr{Name: "a b"}},
		"datagram of 65536 bytes":            UDPMessage6{Type: UDPDatagram6, Addr: Addr{IP: v4}, Payload: make([]byte, 65536-20)},
		"lost datagram to a name":            lost(dst, UDPTTLExpired6, v4),
		"lost datagram to nowhere":           lost(Addr{}, UDPTTLExpired6, v4),
		"lost without cause":                 lost(Addr{IP: v6}, 0, v6),
		"lost for an unknown cause":          lost(Addr{IP: v6}, 5, v6),
		"lost, reported by nobody":           lost(Addr{IP: v4}, UDPHostUnreachable6, netip.Addr{}),
		"lost, reported by a zone's address": lost(Addr{IP: v4}, UDPHostUnreachable6, zone),
	} {
		if b, err := m.AppendBinary([]byte("before")); err == nil || b != nil {
			t.Errorf("%s: encoded as %x, %v", name, b, err)
		}
	}
}

func TestSocks6ZeroAddressIsAny(t *testing.T) {
	for name, m := range map[string]struct {
		message encoding.BinaryAppender
		want    string
	}{
		"NOOP":            {Request6{}, "0600 0000 0000 0001 00000000"},
		"BIND to a port":  {Request6{Command: Bind, Dst: Addr{Port: 80}}, "0602 0000 0050 0001 00000000"},
		"ASSOCIATE":       {Request6{Command: Associate}, "0603 0000 0000 0001 00000000"},
		"operation reply": {OperationReply6{Code: NotAllowed}, "0602 0000 0000 0001 00000000"},
		"UDP trigger":     {UDPMessage6{Type: UDPDatagram6}, "0603 0014 0000000000000000 01000000 00000000"},
	} {
		b, err := m.message.AppendBinary(nil)
		if want := unhex6(t, m.want); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %x, %v; want %x", name, b, err, want)
		}
	}
}

func TestSocks6PassesUnknownCommandsAndCodesOn(t *testing.T) {
	q, err := ReadRequest6(bytes.NewReader(unhex6(t, "06fe 0000 0050 0001 c000020a")))
	if err != nil || q.Command != 0xfe {
		t.Errorf("request: %+v, %v; want command 254", q, err)
	}
	p, err := ReadOperationReply6(bytes.NewReader(unhex6(t, "06fe 0000 0050 0001 c000020a")))
	if err != nil || p.Code != 0xfe {
		t.Errorf("reply: %+v, %v; want code 254", p, err)
	}
}

func TestSocks6InitialDataIsOfConnectOnly(t *testing.T) {
	q, err := ReadRequest6(bytes.NewReader(unhex6(t, "0602 0008 0000 0001 00000000 0002 0008 0005 0201")))
	if err != nil || q.Options.Offer == nil || q.Options.Offer.InitialData != 0 {
		t.Errorf("BIND: %+v, %v; want an offer without initial data", q.Options.Offer, err)
	}
}

func TestSocks6CommonMessagesTakeTwoReadsAtMost(t *testing.T) {
	for _, v := range vectors6(t) {
		r := countingReader6{r: bytes.NewReader(v.bytes)}
		if _, err := read6(v.kind, &r); err != nil || r.reads > 2 {
			t.Errorf("%s: %d reads, %v", v.name, r.reads, err)
		}
	}
}

type countingReader6 struct {
	r     io.Reader
	reads int
}

func (c *countingReader6) Read(b []byte) (int, error) {
	c.reads++
	return c.r.Read(b)
}

func TestSocks6UDPMessageMustFitTheBuffer(t *testing.T) {
	b := unhex6(t, "0603 0016 0102030405060708 01000035 c0000235 6869")
	for n := range len(b) {
		if _, err := ReadUDPMessage6(bytes.NewReader(b), make([]byte, n)); !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("buffer of %d bytes: %v", n, err)
		}
	}
	if _, err := ReadUDPMessage6(bytes.NewReader(b), make([]byte, len(b))); err != nil {
		t.Errorf("buffer of %d bytes: %v", len(b), err)
	}
}

func BenchmarkReadRequest6(b *testing.B) {
	message, err := Request6{Command: Connect, Dst: Addr{Name: "www.example.com", Port: 443}}.AppendBinary(nil)
	if err != nil {
		b.Fatal(err)
	}
	r := bytes.NewReader(message)
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(message)
		if _, err := ReadRequest6(r); err != nil {
			b.Fatal(err)
		}
	}
}
