package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// bodies gives what the records in an answer say.
func bodies(m dnsmessage.Message) (all []string) {
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			all = append(all, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			all = append(all, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			all = append(all, b.PTR.String())
		case *dnsmessage.CNAMEResource:
			all = append(all, b.CNAME.String())
		case *dnsmessage.NSResource:
			all = append(all, b.NS.String())
		case *dnsmessage.MXResource:
			all = append(all, fmt.Sprint(b.Pref, " ", b.MX))
		case *dnsmessage.TXTResource:
			all = append(all, strings.Join(b.TXT, ""))
		}
	}
	return all
}

func TestAddressesComeFromTheResolver(t *testing.T) {
	e := &Exit{Resolver: byName{
		"both.example": addrs("192.0.2.1", "2001:db8::1", "::ffff:192.0.2.2"),
		"four.example": addrs("192.0.2.1"),
	}}
	for _, test := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want []string
	}{
		{"both.example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"192.0.2.1", "192.0.2.2"}},
		{"both.example.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, []string{"2001:db8::1"}},
		{"four.example.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, nil},
		{"none.example.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
	} {
		m := exchangeDNS(t, e, dnsQueryFor(t, test.name, test.kind), false)
		if got := bodies(m); m.RCode != test.code || !slices.Equal(got, test.want) {
			t.Errorf("%s %v: %v %v", test.name, test.kind, m.RCode, got)
		}
	}
	e.Resolver = &answers{err: &net.DNSError{Err: "timeout", IsTimeout: true}}
	if m := exchangeDNS(t, e, dnsQueryFor(t, "a.example.", dnsmessage.TypeA), false); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("a resolver that fails: %v", m.RCode)
	}
}

// library is a resolver that knows all kinds of records.
type library struct{ byName }

func (library) LookupAddr(_ context.Context, addr string) ([]string, error) {
	return []string{"host-of-" + strings.ReplaceAll(addr, ":", "-") + ".example."}, nil
}

func (library) LookupCNAME(context.Context, string) (string, error) { return "canon.example.", nil }

func (library) LookupMX(context.Context, string) ([]*net.MX, error) {
	return []*net.MX{{Host: "mail.example.", Pref: 10}}, nil
}

func (library) LookupNS(context.Context, string) ([]*net.NS, error) {
	return []*net.NS{{Host: "ns.example."}}, nil
}

func (library) LookupTXT(context.Context, string) ([]string, error) {
	return []string{"short", strings.Repeat("long", 100)}, nil
}

func TestWhereOnlyTheSystemResolvesItsAnswersArePassedOn(t *testing.T) {
	for _, test := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want []string
	}{
		{"1.2.0.192.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeSuccess, []string{"host-of-192.0.2.1.example."}},
		{"1." + strings.Repeat("0.", 23) + "8.B.d.0.1.0.0.2.ip6.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeSuccess, []string{"host-of-2001-db8--1.example."}},
		{"a.example.", dnsmessage.TypePTR, dnsmessage.RCodeNotImplemented, nil},
		{"a.example.", dnsmessage.TypeCNAME, dnsmessage.RCodeSuccess, []string{"canon.example."}},
		{"a.example.", dnsmessage.TypeNS, dnsmessage.RCodeSuccess, []string{"ns.example."}},
		{"a.example.", dnsmessage.TypeMX, dnsmessage.RCodeSuccess, []string{"10 mail.example."}},
		{"a.example.", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, []string{"short", strings.Repeat("long", 100)}},
		{"a.example.", 65, dnsmessage.RCodeNotImplemented, nil},
	} {
		query := dnsQueryFor(t, test.name, test.kind)
		q, err := parseDNS(query)
		if err != nil {
			t.Fatal(err)
		}
		b, err := q.lookUp(t.Context(), library{})
		if err != nil {
			t.Errorf("%s %v: %v", test.name, test.kind, err)
			continue
		}
		m := unpackAnswer(t, b, query)
		if got := bodies(m); m.RCode != test.code || !slices.Equal(got, test.want) {
			t.Errorf("%s %v: %v %q", test.name, test.kind, m.RCode, got)
		}
	}
}

func FuzzReverse(f *testing.F) {
	f.Add("1.2.0.192.in-addr.arpa")
	f.Add("1." + strings.Repeat("0.", 23) + "8.B.d.0.1.0.0.2.ip6.arpa")
	f.Add("ip6.arpa")
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := reverse(name)
		if ok && (!a.IsValid() || a.Zone() != "") {
			t.Errorf("%q is %v", name, a)
		}
	})
}

func TestNamesOfTheHostsOwnFileComeFirst(t *testing.T) {
	e := &Exit{Upstream: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}
	for name, kind := range map[string]dnsmessage.Type{"localhost.": dnsmessage.TypeA, "1.0.0.127.in-addr.arpa.": dnsmessage.TypePTR} {
		answer := exchangeDNS(t, e, dnsQueryFor(t, name, kind), false)
		if answer.RCode != dnsmessage.RCodeSuccess || len(answer.Answers) == 0 {
			t.Errorf("%s has %v, %d records", name, answer.RCode, len(answer.Answers))
		}
	}
}
