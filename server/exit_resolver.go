package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// How long the addresses of a name are good for: as long as the servers said, within
// bounds. Less than the least would be a look-up for every few datagrams, and who
// says more than the most may still want to move. Those that came from elsewhere, as
// from a file or the system, are good for lifeUnsaid.
const (
	leastLife  = 5 * time.Second
	mostLife   = time.Hour
	lifeUnsaid = time.Minute
)

// resolver gives the resolver of names.
func (e *Exit) resolver() Resolver {
	switch {
	case e.Resolver != nil:
		return e.Resolver
	case len(e.Upstream) == 0 && e.Steer == nil:
		return net.DefaultResolver
	}
	// One for all, as it asks but once for those who want the same at once.
	e.exchanges.once.Do(func() { e.exchanges.resolver = e.newResolver(func([]byte) {}) })
	return upstream{e.exchanges.resolver}
}

// upstream is a resolver that asks others than its library knows of.
type upstream struct{ *net.Resolver }

// LookupNetIP names in its errors no server that nobody asked.
func (u upstream) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	addrs, err := u.Resolver.LookupNetIP(ctx, network, host)
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		said := *dns // which others may get, too
		said.Server = ""
		err = &said
	}
	return addrs, err
}

// newResolver gives a resolver that asks Upstream, or else whom the system's would
// ask, as Exchange does. It tells what it hears, except where the system itself asks.
func (e *Exit) newResolver(heard func(answer []byte)) *net.Resolver {
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		servers := e.Upstream
		if len(servers) == 0 {
			server, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, err
			}
			servers = []netip.AddrPort{server}
		}
		// ctx ends when nobody waits for the answer any more.
		return newNameConn(ctx, nil, func(_ context.Context, query []byte) ([]byte, error) {
			q, err := parseDNS(query)
			if err != nil {
				return nil, fmt.Errorf("read DNS query: %w", err)
			}
			answer, err := q.forward(ctx, e.Steer, servers)
			if err != nil {
				return q.reply(dnsmessage.RCodeServerFailure)
			}
			heard(answer)
			return answer, nil
		}), nil
	}
	return &net.Resolver{PreferGo: len(e.Upstream) > 0 || e.Steer != nil, Dial: dial}
}

// life is how long the addresses of a name are good for. Its methods are safe for
// concurrent use.
type life struct {
	mu    sync.Mutex
	said  bool
	least time.Duration
}

// hear notes what an answer says of it.
func (l *life) hear(answer []byte) {
	ttl, ok := leastTTL(answer)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.said || ttl < l.least {
		l.said, l.least = true, ttl
	}
}

// bounded gives it within its bounds.
func (l *life) bounded() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.said {
		return lifeUnsaid
	}
	return min(max(l.least, leastLife), mostLife)
}

// leastTTL gives the least TTL of the addresses in an answer and of the aliases that
// lead to them, if there are any.
func leastTTL(answer []byte) (least time.Duration, ok bool) {
	var p dnsmessage.Parser
	if _, err := p.Start(answer); err != nil || p.SkipAllQuestions() != nil {
		return 0, false
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return least, ok && errors.Is(err, dnsmessage.ErrSectionDone)
		}
		switch h.Type {
		case dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeCNAME:
			if ttl := time.Duration(h.TTL) * time.Second; h.TTL > 1<<31-1 {
				least, ok = 0, true // RFC 2181 section 8
			} else if !ok || ttl < least {
				least, ok = ttl, true
			}
		}
		if err := p.SkipAnswer(); err != nil {
			return 0, false
		}
	}
}
