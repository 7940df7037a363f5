package socks

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/relay"
)

// names is the conn of a name service that has answered already.
type names struct {
	sink
	answers *bytes.Reader
}

func (n names) Read(b []byte) (int, error)       { return n.answers.Read(b) }
func (n names) SetDeadline(time.Time) error      { return nil }
func (n names) SetReadDeadline(time.Time) error  { return nil }
func (n names) SetWriteDeadline(time.Time) error { return nil }

// answerNames answers queries, the last one first.
func answerNames(queries []byte) names {
	var all []byte
	for len(queries) > 0 {
		size := 2 + int(binary.BigEndian.Uint16(queries))
		a := answerName(queries[2:size])
		all = append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), append(a, all...)...)
		queries = queries[size:]
	}
	return names{newSink(nil), bytes.NewReader(all)}
}

// answerName knows two names, their addresses, one that makes trouble, and one whose
// owner does.
func answerName(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		panic(err)
	}
	m.Response = true
	q := m.Questions[0]
	add := func(body dnsmessage.ResourceBody) {
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: body})
	}
	alias := dnsmessage.MustNewName("alias.example.")
	switch name := strings.TrimSuffix(q.Name.String(), "."); {
	case name == "example.com" && q.Type == dnsmessage.TypeA:
		add(&dnsmessage.CNAMEResource{CNAME: alias})
		add(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}})
	case name == "six.example" && q.Type == dnsmessage.TypeAAAA:
		add(&dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::7").As16()})
	case name == "fail.example":
		m.RCode = dnsmessage.RCodeServerFailure
	case name == "7.2.0.192.in-addr.arpa" && q.Type == dnsmessage.TypePTR:
		add(&dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("example.com.")})
	case name == "8.2.0.192.in-addr.arpa" && q.Type == dnsmessage.TypePTR:
		add(&dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("a b\n.example.")})
	case name == "7.0.0.0."+strings.Repeat("0.", 20)+"8.b.d.0.1.0.0.2.ip6.arpa" && q.Type == dnsmessage.TypePTR:
		add(&dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("six.example.")})
	case name != "example.com" && name != "six.example":
		m.RCode = dnsmessage.RCodeNameError
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func TestResolveGivesUpWithTheApp(t *testing.T) {
	p := newPatient()
	c := dial(t, openDoor(t, &Door{Relay: p}))
	send(t, c, "\x05\x01\x00\x05\xf0\x00\x03\x01a\x00\x00")
	expect(t, c, "\x05\x00")
	if r := receive(t, p.asked); r.Dst.String() != "0.0.0.0:53" || len(r.Initial) == 0 {
		t.Errorf("the relay is asked for %+v", r)
	}
	c.Close()
	receive(t, p.gaveUp)
}

func TestResolveBelievesNoOtherAnswer(t *testing.T) {
	good := answerName(query(t, "example.com.", dnsmessage.TypeA))
	for name, change := range map[string]func(b []byte){
		"a query":        func(b []byte) { b[2] &^= 0x80 },
		"of another id":  func(b []byte) { b[1] = 2 },
		"refused":        func(b []byte) { b[3] |= 5 },
		"no such name":   func(b []byte) { b[3] |= 3 },
		"too many":       func(b []byte) { b[7] = 9 },
		"of other class": func(b []byte) { b[len(b)-11] = 3 },
	} {
		b := bytes.Clone(good)
		change(b)
		found, err := parseAnswer(b, 2)
		if _, ok := pick[*dnsmessage.AResource](found); ok {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	if found, err := parseAnswer(good, 2); err != nil || len(found) != 2 {
		t.Errorf("%v, %v", found, err)
	}
}

func query(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	b, err := appendQuery(nil, 1, name, kind)
	if err != nil {
		t.Fatal(err)
	}
	return b[2:]
}

// FuzzResolveAnswer checks that whatever a name service says, the app gets a reply
// with an address or name that it can read.
func FuzzResolveAnswer(f *testing.F) {
	for _, name := range []string{"example.com.", "fail.example.", "nothing.", "7.2.0.192.in-addr.arpa.", "8.2.0.192.in-addr.arpa."} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypePTR} {
			a := answerName(query(f, name, kind))
			f.Add(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &guest{relay: &canned{answers: b}}
		for _, r := range []Request{
			{Dialect: SOCKS4a, Dst: Addr{Name: "example.com"}},
			{Dialect: SOCKS5, Dst: Addr{Name: "example.com"}},
		} {
			ip, err := g.addressOf(context.Background(), r)
			if (err == nil) != ip.IsValid() || r.Dialect == SOCKS4a && ip.Is6() {
				t.Errorf("%v, %v", ip, err)
			}
		}
		name, err := g.nameOf(context.Background(), Request{Dialect: SOCKS5, Dst: Addr{IP: netip.MustParseAddr("192.0.2.7")}})
		if again, bad := NewAddr(name, 0); err == nil && (bad != nil || again.Name != name) {
			t.Errorf("%q", name)
		}
	})
}

// canned is a relay to a name service that always says the same.
type canned struct {
	Unserved
	answers []byte
}

func (c *canned) Connect(context.Context, Request) (relay.Conn, Reply, error) {
	return names{newSink(nil), bytes.NewReader(c.answers)}, Reply{}, nil
}
