package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// recordLife is the TTL of answers that come without one, in seconds.
const recordLife = 60

// recordResolver is a [Resolver] that knows more than addresses. A [net.Resolver]
// is one.
type recordResolver interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupCNAME(ctx context.Context, host string) (string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNS(ctx context.Context, name string) ([]*net.NS, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// lookUp answers by what a resolver says.
func (q dnsQuery) lookUp(ctx context.Context, r Resolver) ([]byte, error) {
	bodies, err := q.records(ctx, r)
	dns, _ := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return q.reply(dnsmessage.RCodeNotImplemented)
	case dns != nil && dns.IsNotFound:
		return q.reply(dnsmessage.RCodeNameError)
	case err != nil:
		return nil, err
	}
	return q.answered(bodies)
}

// answered gives the answer with these records.
func (q dnsQuery) answered(bodies []dnsmessage.ResourceBody) ([]byte, error) {
	answers := make([]dnsmessage.Resource, len(bodies))
	for i, body := range bodies {
		answers[i] = dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: recordLife},
			Body:   body,
		}
	}
	return q.reply(dnsmessage.RCodeSuccess, answers...)
}

func (q dnsQuery) records(ctx context.Context, r Resolver) ([]dnsmessage.ResourceBody, error) {
	host := strings.TrimSuffix(q.question.Name.String(), ".")
	if q.forAddress() {
		addrs, err := r.LookupNetIP(ctx, "ip", host)
		return q.addressRecords(addrs), err
	}
	more, ok := r.(recordResolver)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	switch q.question.Type {
	case dnsmessage.TypePTR:
		addr, ok := reverse(host)
		if !ok {
			return nil, errors.ErrUnsupported
		}
		names, err := more.LookupAddr(ctx, addr.String())
		return nameRecords(names, err, func(n dnsmessage.Name) dnsmessage.ResourceBody { return &dnsmessage.PTRResource{PTR: n} })
	case dnsmessage.TypeCNAME:
		name, err := more.LookupCNAME(ctx, host)
		return nameRecords([]string{name}, err, func(n dnsmessage.Name) dnsmessage.ResourceBody { return &dnsmessage.CNAMEResource{CNAME: n} })
	case dnsmessage.TypeNS:
		all, err := more.LookupNS(ctx, host)
		names := make([]string, len(all))
		for i, ns := range all {
			names[i] = ns.Host
		}
		return nameRecords(names, err, func(n dnsmessage.Name) dnsmessage.ResourceBody { return &dnsmessage.NSResource{NS: n} })
	case dnsmessage.TypeMX:
		all, err := more.LookupMX(ctx, host)
		return mxRecords(all, err)
	case dnsmessage.TypeTXT:
		texts, err := more.LookupTXT(ctx, host)
		return textRecords(texts), err
	}
	return nil, errors.ErrUnsupported
}

// addressRecords gives those of the family that was asked for.
func (q dnsQuery) addressRecords(addrs []netip.Addr) (bodies []dnsmessage.ResourceBody) {
	for _, a := range addrs[:min(len(addrs), maxAnswers)] {
		switch a = a.Unmap(); {
		case a.Is4() && q.question.Type == dnsmessage.TypeA:
			bodies = append(bodies, &dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.question.Type == dnsmessage.TypeAAAA:
			bodies = append(bodies, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	return bodies
}

// nameRecords makes a record of each name.
func nameRecords(names []string, err error, record func(dnsmessage.Name) dnsmessage.ResourceBody) (bodies []dnsmessage.ResourceBody, _ error) {
	if err != nil {
		return nil, err
	}
	for _, name := range names[:min(len(names), maxAnswers)] {
		// Names in a file have no dot at the end.
		n, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, record(n))
	}
	return bodies, nil
}

func mxRecords(all []*net.MX, err error) (bodies []dnsmessage.ResourceBody, _ error) {
	if err != nil {
		return nil, err
	}
	for _, mx := range all[:min(len(all), maxAnswers)] {
		n, err := dnsmessage.NewName(mx.Host)
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, &dnsmessage.MXResource{Pref: mx.Pref, MX: n})
	}
	return bodies, nil
}

// textRecords cuts texts into the strings of up to 255 bytes that DNS knows.
func textRecords(texts []string) (bodies []dnsmessage.ResourceBody) {
	for _, text := range texts[:min(len(texts), maxAnswers)] {
		var r dnsmessage.TXTResource
		for len(text) > 255 {
			r.TXT = append(r.TXT, text[:255])
			text = text[255:]
		}
		r.TXT = append(r.TXT, text)
		bodies = append(bodies, &r)
	}
	return bodies
}

// reverse gives the address that a name below in-addr.arpa or ip6.arpa stands for
// (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverse(host string) (netip.Addr, bool) {
	host = strings.ToLower(host)
	if v4, ok := strings.CutSuffix(host, ".in-addr.arpa"); ok {
		labels := strings.Split(v4, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a, err == nil
	}
	v6, ok := strings.CutSuffix(host, ".ip6.arpa")
	if !ok || len(v6) != 63 {
		return netip.Addr{}, false
	}
	var groups [8]string
	for i := range 32 {
		digit, dot := v6[62-2*i], 61-2*i
		if dot >= 0 && v6[dot] != '.' {
			return netip.Addr{}, false
		}
		groups[i/4] += string(digit)
	}
	a, err := netip.ParseAddr(strings.Join(groups[:], ":"))
	return a, err == nil
}
