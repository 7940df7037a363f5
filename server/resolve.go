package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/adit-net/adit/tunnel/socks"
)

// How many addresses of one name are looked at, and how many of these are
// tried, so that whoever owns the name cannot make one request into a flood.
const (
	maxAnswers = 64
	maxTargets = 16
)

// Resolver turns names into addresses. A [net.Resolver] is one. The network is
// always "ip": one call is to give the addresses of both families, the best
// first.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var (
	errNumber    = errors.New("the host ends in a number and is no IP address as it is usually written")
	errNoPort    = errors.New("the port is 0")
	errNoAddress = errors.New("the name has no addresses")
)

// targets gives the addresses to dial for a request. Those that are not
// allowed are left out; if all are, the error is [socks.NotAllowed].
func (e *Exit) targets(ctx context.Context, r socks.Request) ([]netip.AddrPort, error) {
	dst := r.Dst
	if dst.Port == 0 {
		return nil, &socks.Error{Code: socks.AddressNotSupported, Err: errNoPort}
	}
	addrs, err := resolve(ctx, e.resolver(), dst)
	if err != nil {
		return nil, err
	}
	var (
		targets = make([]netip.AddrPort, 0, len(addrs))
		denied  error
	)
	for i, a := range addrs {
		if slices.ContainsFunc(addrs[:i], func(b netip.Addr) bool { return b.Unmap() == a.Unmap() }) {
			continue
		}
		t := netip.AddrPortFrom(a.Unmap(), dst.Port)
		if err := e.permits(r, t); err != nil {
			denied = err
			continue
		}
		targets = append(targets, t)
	}
	if len(targets) == 0 {
		return nil, denied
	}
	targets = interleave(targets)
	return targets[:min(len(targets), maxTargets)], nil
}

// Addresses gives those that a host has for this exit, whatever it permits: at least one.
func (e *Exit) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	return resolve(ctx, e.resolver(), socks.Addr{Name: host})
}

// resolve gives at least one address. It asks the resolver once, or not at all.
func resolve(ctx context.Context, resolver Resolver, dst socks.Addr) ([]netip.Addr, error) {
	if dst.IP.IsValid() {
		return []netip.Addr{dst.IP}, nil
	}
	a, err := literal(dst.Name)
	if err != nil {
		return nil, &socks.Error{Code: socks.NotAllowed, Err: err}
	}
	if a.IsValid() {
		return []netip.Addr{a}, nil
	}
	addrs, err := resolver.LookupNetIP(ctx, "ip", dst.Name)
	if err != nil {
		return nil, fmt.Errorf("resolve target: %w", err)
	}
	if len(addrs) == 0 {
		return nil, &socks.Error{Code: socks.HostUnreachable, Err: errNoAddress}
	}
	return addrs[:min(len(addrs), maxAnswers)], nil
}

// literal gives the IP address that a host is in its usual spelling, with or
// without dots behind it, and a zero one for a name. What ends in a number is no
// name: there is no such top-level domain, but resolvers that take 127.1 or
// 0x7f000001 for an IPv4 address.
func literal(host string) (netip.Addr, error) {
	host = strings.TrimRight(host, ".")
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a, nil
	}
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		last, digits = "0"+hex, digits+"abcdef"
	}
	if last != "" && strings.Trim(last, digits) == "" {
		return netip.Addr{}, errNumber
	}
	return netip.Addr{}, nil
}

// interleave lets the address families take turns, starting with the first
// address's, and keeps the order within each (RFC 8305 section 4).
func interleave(targets []netip.AddrPort) []netip.AddrPort {
	if len(targets) == 1 {
		return targets
	}
	var first, other []netip.AddrPort
	for _, t := range targets {
		if t.Addr().Is4() == targets[0].Addr().Is4() {
			first = append(first, t)
		} else {
			other = append(other, t)
		}
	}
	mixed := make([]netip.AddrPort, 0, len(targets))
	for len(first) > 0 && len(other) > 0 {
		mixed = append(mixed, first[0], other[0])
		first, other = first[1:], other[1:]
	}
	return append(append(mixed, first...), other...)
}
