package server

import (
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/socks"
)

// zone is what a DNS server knows, by name in lower case.
type zone map[string][]dnsmessage.Resource

// respond answers with the aliases and with what else was asked for.
func (z zone) respond(query []byte) [][]byte {
	q, err := parseDNS(query)
	if err != nil {
		panic(err)
	}
	known, ok := z[strings.ToLower(q.question.Name.String())]
	if !ok {
		return [][]byte{respond(query, dnsmessage.RCodeNameError)}
	}
	known = slices.DeleteFunc(slices.Clone(known), func(r dnsmessage.Resource) bool {
		return r.Header.Type != q.question.Type && r.Header.Type != dnsmessage.TypeCNAME
	})
	b, err := q.reply(dnsmessage.RCodeSuccess, known...)
	if err != nil {
		panic(err)
	}
	return [][]byte{b}
}

func serveZone(t testing.TB, z zone) netip.AddrPort {
	t.Helper()
	return listenDNS(t, func(query []byte, _ bool) [][]byte { return z.respond(query) })
}

// record gives a record with a TTL: of an address, or of an alias.
func record(name string, ttl uint32, to string) dnsmessage.Resource {
	r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: ttl}}
	switch a, err := netip.ParseAddr(to); {
	case err != nil:
		r.Header.Type, r.Body = dnsmessage.TypeCNAME, &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)}
	case a.Is4():
		r.Header.Type, r.Body = dnsmessage.TypeA, &dnsmessage.AResource{A: a.As4()}
	default:
		r.Header.Type, r.Body = dnsmessage.TypeAAAA, &dnsmessage.AAAAResource{AAAA: a.As16()}
	}
	return r
}

func TestAddressesAreGoodAsLongAsTheServerSays(t *testing.T) {
	e := &Exit{Upstream: []netip.AddrPort{serveZone(t, zone{
		"two.example.":   {record("two.example.", 300, "127.0.0.1"), record("two.example.", 200, "::1")},
		"alias.example.": {record("alias.example.", 100, "two.example."), record("two.example.", 300, "127.0.0.1")},
		"brief.example.": {record("brief.example.", 0, "127.0.0.1")},
		"long.example.":  {record("long.example.", 86_400, "127.0.0.1")},
		"minus.example.": {record("minus.example.", 1<<31, "127.0.0.1")},
	})}}
	for name, want := range map[string]time.Duration{
		"two.example":   200 * time.Second,
		"ALIAS.example": 100 * time.Second,
		"brief.example": leastLife,
		"long.example":  mostLife,
		"minus.example": leastLife,
		"localhost":     lifeUnsaid, // it is in a file
		"127.0.0.1":     lifeUnsaid,
	} {
		if addrs, good, err := e.lookUp(t.Context(), name); err != nil || good != want || !slices.Contains(addrs, netip.MustParseAddr("127.0.0.1")) {
			t.Errorf("%s: %v for %v, %v; want %v", name, addrs, good, err, want)
		}
	}
	e = &Exit{Resolver: &answers{addrs: addrs("127.0.0.1")}}
	if _, good, err := e.lookUp(t.Context(), "two.example"); err != nil || good != lifeUnsaid {
		t.Errorf("a resolver that says nothing of it: %v, %v", good, err)
	}
}

func TestAssociationKeepsAddressesAsLongAsTheServerSays(t *testing.T) {
	at := udpEcho(t, "127.0.0.1:0")
	e := &Exit{Allow: toLoopback, Upstream: []netip.AddrPort{serveZone(t, zone{
		"peer.example.": {record("peer.example.", 777, "127.0.0.1")},
	})}}
	a, in, _ := associate(t, e)
	before := time.Now()
	a.Send(to(socks.Addr{Name: "Peer.Example", Port: at.Port}, "x"))
	in.next(t)
	known := a.(*association)
	known.mu.Lock()
	defer known.mu.Unlock()
	n, ok := known.names.get("peer.example")
	if !ok || n.until.Before(before.Add(777*time.Second)) || n.until.After(time.Now().Add(777*time.Second)) {
		t.Errorf("it is asked for again after %v", n.until.Sub(before))
	}
}

func TestUpstreamIsAskedForNamesOfAllKinds(t *testing.T) {
	var asked atomic.Int64
	z := zone{"target.example.": {record("target.example.", 60, "127.0.0.1")}}
	upstream := listenDNS(t, func(query []byte, _ bool) [][]byte {
		asked.Add(1)
		return z.respond(query)
	})
	port, _ := echo(t, "127.0.0.1:0")
	e := &Exit{Allow: Allow{Loopback: true}, Upstream: []netip.AddrPort{upstream}}
	conn, _, err := e.Connect(t.Context(), connectTo(t, "target.example", port))
	if err != nil {
		t.Fatal(err)
	}
	conn.Reset()
	if n := asked.Load(); n != 2 { // for both families
		t.Errorf("%d queries", n)
	}
	_, reply, err := e.Connect(t.Context(), connectTo(t, "nowhere.example", port))
	if err == nil || reply.Code != socks.HostUnreachable || strings.Contains(err.Error(), ":53") {
		t.Errorf("a name that there is not: %v, %v", reply.Code, err)
	}
}

func TestSystemsServersAreAskedInDisguise(t *testing.T) {
	names := make(chan string, 20)
	z := zone{"some.rather.long.name.example.": {record("some.rather.long.name.example.", 9, "192.0.2.7")}}
	server := listenDNS(t, func(query []byte, _ bool) [][]byte {
		names <- string(query[dnsHeader : questionEnd(query)-4])
		return z.respond(query)
	})
	var l life
	r := new(Exit).newResolver(l.hear)
	query := dnsQueryFor(t, "some.rather.long.name.example.", dnsmessage.TypeA)
	spellings := make(map[string]bool)
	for range 5 {
		conn, err := r.Dial(t.Context(), "udp", server.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(framed(string(query))); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 512)
		n, err := io.ReadAtLeast(conn, b, 2+len(query))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if m := unpackAnswer(t, b[2:n], query); len(m.Answers) != 1 {
			t.Errorf("answer: %+v", m)
		}
		spellings[<-names] = true
	}
	if len(spellings) < 2 || l.bounded() != 9*time.Second {
		t.Errorf("%d spellings, good for %v", len(spellings), l.bounded())
	}
}

func FuzzLifeOfAnswers(f *testing.F) {
	query := dnsQueryFor(f, "a.example.", dnsmessage.TypeA)
	f.Add([]byte{})
	f.Add(query)
	z := zone{"a.example.": {record("a.example.", 100, "b.example."), record("b.example.", 300, "127.0.0.1")}}
	f.Add(z.respond(query)[0])
	f.Fuzz(func(t *testing.T, b []byte) {
		var l life
		l.hear(b)
		if good := l.bounded(); good < leastLife || good > mostLife {
			t.Errorf("good for %v", good)
		}
		var m dnsmessage.Message
		if m.Unpack(b) == nil && len(m.Answers) == 0 && l.said {
			t.Error("no records say how long they are good")
		}
	})
}
