package server

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestExchangeForwardsInDisguise(t *testing.T) {
	const name = "Some.Rather-Long.Name.Example."
	var mu sync.Mutex
	names, ids := make(map[string]bool), make(map[uint16]bool)
	upstream := listenDNS(t, func(query []byte, tcp bool) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		q, err := parseDNS(query)
		if err != nil || tcp || !q.header.RecursionDesired {
			t.Errorf("%x: %v", query, err)
		}
		names[q.question.Name.String()], ids[q.header.ID] = true, true
		return [][]byte{respond(query, dnsmessage.RCodeSuccess, "hello")}
	})
	e := &Exit{Upstream: []netip.AddrPort{upstream}}
	for range 20 {
		m := exchangeDNS(t, e, dnsQueryFor(t, name, dnsmessage.TypeTXT), false)
		if got := text(m); !slices.Equal(got, []string{"hello"}) || m.Answers[0].Header.TTL != 7 || m.Answers[0].Header.Name.String() != name {
			t.Errorf("answer: %+v", m.Answers)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(names) < 15 || len(ids) < 15 {
		t.Errorf("20 queries had %d spellings and %d IDs", len(names), len(ids))
	}
	for n := range names {
		if !strings.EqualFold(n, name) {
			t.Errorf("%s was asked for", n)
		}
	}
}

func TestExchangeOverlooksForgedAnswers(t *testing.T) {
	upstream := listenDNS(t, func(query []byte, _ bool) [][]byte {
		forged := respond(query, dnsmessage.RCodeSuccess, "forged")
		id, name, kind, asks := slices.Clone(forged), slices.Clone(forged), slices.Clone(forged), slices.Clone(forged)
		id[0]++
		name[dnsHeader+1] ^= 1
		kind[questionEnd(query)-3]++
		asks[2] &^= 0x80
		return [][]byte{id, name, kind, asks, nil, {1}, forged[:20], respond(query, dnsmessage.RCodeSuccess, "true")}
	})
	e := &Exit{Upstream: []netip.AddrPort{upstream}}
	m := exchangeDNS(t, e, dnsQueryFor(t, "a.example.", dnsmessage.TypeTXT), false)
	if got := text(m); !slices.Equal(got, []string{"true"}) {
		t.Errorf("answer: %q", got)
	}
}

func TestExchangeTurnsToTCP(t *testing.T) {
	for name, udp := range map[string]func(query []byte) [][]byte{
		"when the answer is too long": func(query []byte) [][]byte {
			b := respond(query, dnsmessage.RCodeSuccess)
			b[2] |= 2
			return [][]byte{b}
		},
		"when the server keeps no capital letters": func(query []byte) [][]byte {
			b := respond(query, dnsmessage.RCodeSuccess, "perhaps forged")
			q := b[dnsHeader : questionEnd(query)-4]
			swapped := bytes.Map(func(r rune) rune {
				if 'a' <= r|0x20 && r|0x20 <= 'z' {
					return r ^ 0x20
				}
				return r
			}, q)
			copy(q, swapped)
			return [][]byte{b}
		},
		"when somebody guesses": func(query []byte) (all [][]byte) {
			for i := range maxForged {
				b := respond(query, dnsmessage.RCodeSuccess, "forged")
				b[1] += byte(i) + 1
				all = append(all, b)
			}
			return append(all, respond(query, dnsmessage.RCodeSuccess, "too late"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := listenDNS(t, func(query []byte, tcp bool) [][]byte {
				if tcp {
					return [][]byte{respond(query, dnsmessage.RCodeSuccess, "over TCP")}
				}
				return udp(query)
			})
			m := exchangeDNS(t, &Exit{Upstream: []netip.AddrPort{upstream}}, dnsQueryFor(t, "letters.example.", dnsmessage.TypeTXT), false)
			if got := text(m); !slices.Equal(got, []string{"over TCP"}) {
				t.Errorf("answer: %q", got)
			}
		})
	}
}

func TestExchangeAsksTheNextServer(t *testing.T) {
	good := listenDNS(t, func(query []byte, _ bool) [][]byte {
		return [][]byte{respond(query, dnsmessage.RCodeSuccess, "good")}
	})
	asked := make(chan bool, 10)
	bad := listenDNS(t, func(query []byte, _ bool) [][]byte {
		asked <- true
		return [][]byte{respond(query, dnsmessage.RCodeServerFailure)}
	})
	closed, at := listenPeer(t, "127.0.0.1:0")
	closed.Close()
	dead := netip.AddrPortFrom(at.IP, at.Port)
	silent := listenDNS(t, func([]byte, bool) [][]byte { return nil })
	query := dnsQueryFor(t, "a.example.", dnsmessage.TypeTXT)
	for _, servers := range [][]netip.AddrPort{{bad, good}, {dead, good}, {silent, good}, {bad, dead, good}} {
		if m := exchangeDNS(t, &Exit{Upstream: servers}, query, false); !slices.Equal(text(m), []string{"good"}) {
			t.Errorf("%v: %v, %q", servers, m.RCode, text(m))
		}
	}
	for len(asked) > 0 {
		<-asked
	}
	for _, servers := range [][]netip.AddrPort{{bad}, {dead}} {
		if m := exchangeDNS(t, &Exit{Upstream: servers}, query, false); m.RCode != dnsmessage.RCodeServerFailure {
			t.Errorf("%v: %v", servers, m.RCode)
		}
	}
	if len(asked) != 1 {
		t.Errorf("a server that fails was asked %d times", len(asked))
	}
}

func TestExchangeCutsLongAnswersOff(t *testing.T) {
	upstream := listenDNS(t, func(query []byte, tcp bool) [][]byte {
		length := map[bool]int{false: 1000, true: 40_000}[tcp]
		if !tcp && bytes.Contains(bytes.ToLower(query), []byte("huge")) {
			b := respond(query, dnsmessage.RCodeSuccess)
			b[2] |= 2
			return [][]byte{b}
		}
		return [][]byte{respond(query, dnsmessage.RCodeSuccess, strings.Repeat("x", length))}
	})
	e := &Exit{Upstream: []netip.AddrPort{upstream}}
	for _, test := range []struct {
		name  string
		edns  int
		tcp   bool
		bytes int // of text; 0 means cut off
	}{
		{"long.example.", 0, false, 0},
		{"long.example.", 0, true, 1000},
		{"long.example.", 512, false, 0},
		{"long.example.", 1232, false, 1000},
		{"huge.example.", 65535, false, 0},
		{"huge.example.", 0, true, 40_000},
	} {
		var change []func(*dnsmessage.Message)
		if test.edns > 0 {
			change = append(change, withEDNS(test.edns))
		}
		query := dnsQueryFor(t, test.name, dnsmessage.TypeTXT, change...)
		m := exchangeDNS(t, e, query, test.tcp)
		if got := len(strings.Join(text(m), "")); got != test.bytes || m.Truncated != (test.bytes == 0) {
			t.Errorf("%s, EDNS %d, TCP %v: %d bytes, truncated: %v", test.name, test.edns, test.tcp, got, m.Truncated)
		}
		if opt := len(m.Additionals) == 1; opt != (test.edns > 0) {
			t.Errorf("%s, EDNS %d: additionals %v", test.name, test.edns, m.Additionals)
		}
	}
}

func TestExchangeRefusesWhatIsNoPlainQuery(t *testing.T) {
	upstream := listenDNS(t, func(query []byte, _ bool) [][]byte {
		t.Errorf("a server was asked %x", query)
		return nil
	})
	e := &Exit{Upstream: []netip.AddrPort{upstream}}
	for _, test := range []struct {
		name   string
		kind   dnsmessage.Type
		change func(*dnsmessage.Message)
		want   dnsmessage.RCode
	}{
		{"transfer", dnsmessage.TypeAXFR, func(*dnsmessage.Message) {}, dnsmessage.RCodeRefused},
		{"transfer of changes", 251, func(*dnsmessage.Message) {}, dnsmessage.RCodeRefused},
		{"CHAOS", dnsmessage.TypeTXT, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }, dnsmessage.RCodeRefused},
		{"update", dnsmessage.TypeSOA, func(m *dnsmessage.Message) { m.OpCode = 5 }, dnsmessage.RCodeNotImplemented},
	} {
		if m := exchangeDNS(t, e, dnsQueryFor(t, "a.example.", test.kind, test.change), true); m.RCode != test.want {
			t.Errorf("%s: %v, want %v", test.name, m.RCode, test.want)
		}
	}
	query := dnsQueryFor(t, "a.example.", dnsmessage.TypeA)
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"a piece":       query[:len(query)-1],
		"an answer":     dnsQueryFor(t, "a.example.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Response = true }),
		"no question":   dnsQueryFor(t, "a.example.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions = nil }),
		"two questions": dnsQueryFor(t, "a.example.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }),
	} {
		if answer, err := e.Exchange(t.Context(), socks.Request{}, b, false); err == nil {
			t.Errorf("%s is answered: %x", name, answer)
		}
	}
}

func TestExchangeEndsWithItsContext(t *testing.T) {
	asked := make(chan bool, 10)
	upstream := listenDNS(t, func([]byte, bool) [][]byte {
		asked <- true
		return nil
	})
	e := &Exit{Upstream: []netip.AddrPort{upstream}}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		<-asked
		cancel()
	})
	began := time.Now()
	if _, err := e.Exchange(ctx, socks.Request{}, dnsQueryFor(t, "a.example.", dnsmessage.TypeA), false); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	asking.Wait()
	if took := time.Since(began); took > dnsTries[0] {
		t.Errorf("it took %v", took)
	}
	if n := e.exchanges.open.taken(); n != 0 {
		t.Errorf("%d exchanges are open", n)
	}
}

func TestExchangesAreCounted(t *testing.T) {
	e := &Exit{Resolver: byName{}}
	query := dnsQueryFor(t, "a.example.", dnsmessage.TypeA)
	full(&e.exchanges.open, "", maxExchanges)
	if _, err := e.Exchange(t.Context(), socks.Request{}, query, false); !errors.Is(err, errExchanges) {
		t.Errorf("error is %v", err)
	}
	e.exchanges.open.give("")
	exchangeDNS(t, e, query, false)
}

func TestServersOfThisHostAreReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string, at time.Time) {
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	var x exchanges
	began := time.Now()
	for i, step := range []struct {
		text string
		want []string
	}{
		{"# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 # second\nnameserver fe80::1%eth0\nnameserver 192.0.2.4\n",
			[]string{"192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%eth0]:53"}},
		{"nameserver 192.0.2.2", []string{"192.0.2.2:53"}},
		{"nameserver\nnameserver here\n", nil},
	} {
		write(step.text, began.Add(time.Duration(i)*time.Second))
		for range 2 {
			x.reload(path)
			var got []string
			for _, s := range x.servers {
				got = append(got, s.String())
			}
			if !slices.Equal(got, step.want) {
				t.Errorf("%q: %v", step.text, got)
			}
		}
	}
	write("nameserver 192.0.2.2", began)
	x.reload(path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	x.reload(path)
	if len(x.servers) > 0 {
		t.Errorf("servers of a file that is gone: %v", x.servers)
	}
	write("nameserver 192.0.2.2", began)
	x.reload(path)
	if len(x.servers) != 1 {
		t.Errorf("servers of a file that has come back as it was: %v", x.servers)
	}
}

func FuzzExchange(f *testing.F) {
	f.Add([]byte{})
	f.Add(dnsQueryFor(f, "a.example.", dnsmessage.TypeA))
	f.Add(dnsQueryFor(f, "4.3.2.1.in-addr.arpa.", dnsmessage.TypePTR, withEDNS(4096)))
	f.Add(dnsQueryFor(f, ".", dnsmessage.TypeNS))
	e := &Exit{Resolver: byName{"a.example": addrs("192.0.2.1", "2001:db8::1")}}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseDNS(b)
		if err != nil {
			return
		}
		sent, err := q.message(dnsmessage.Header{}, nil)
		if err != nil {
			return // a name that cannot be sent
		}
		disguised := disguise(sent)
		if answersTo(b, disguised, bytes.Equal) || !bytes.EqualFold(disguised[dnsHeader:], sent[dnsHeader:]) {
			t.Fatalf("%x is disguised as %x", sent, disguised)
		}
		answer := slices.Clone(disguised)
		answer[2] |= 0x80
		if !answersTo(answer, disguised, bytes.Equal) || !bytes.Equal(restore(answer, sent)[dnsHeader:], sent[dnsHeader:]) {
			t.Fatalf("an answer is not known for one: %x", answer)
		}
		if !q.forAddress() {
			return
		}
		got, err := e.Exchange(t.Context(), socks.Request{}, b, false)
		if err != nil {
			t.Fatal(err)
		}
		unpackAnswer(t, got, sent)
	})
}
