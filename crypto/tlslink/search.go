package tlslink

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxTargets bounds how many attempts to connect one Dial makes, and how
	// many addresses a Dialer remembers.
	maxTargets = 16

	// resolutionDelay is how long addresses of one family wait for the look-up
	// of those that would go first (RFC 8305 section 3).
	resolutionDelay = 50 * time.Millisecond

	// headStart is how long a look-up has before remembered addresses are
	// tried, and doubtful after one of these has led to somebody else.
	headStart = 300 * time.Millisecond
	doubtful  = 3 * time.Second
)

// Resolver turns names into addresses. A [net.Resolver] is one. The network is
// "ip6" or "ip4"; both are asked at once.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// literal is the Resolver of a host that is an address already.
type literal netip.Addr

func (l literal) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.Addr(l)}, nil
}

var errNoAddress = errors.New("the name has no addresses")

// search finds a server's addresses, and gives them out one by one in the
// order in which to try them (RFC 8305 sections 3 and 4).
type search struct {
	resolver Resolver
	host     string
	known    []netip.Addr  // from former searches, the one that worked last first
	patience time.Duration // how long to wait for look-ups before known is tried
	again    bool          // in the end give all out once more, for plain TCP

	found   []netip.Addr // by this search
	waiting []netip.Addr // to be given out; the order counts within each family
	given   []netip.Addr
	ready   bool  // nothing better than what waits is likely to come
	err     error // of the last look-up that failed
}

// lookup is what one look-up has come to.
type lookup struct {
	network string
	addrs   []netip.Addr
	err     error
}

// run gives out targets until there are no more or ctx ends, and closes out.
// All look-ups have ended when it returns.
func (s *search) run(ctx context.Context, out chan<- target) {
	defer close(out)
	ctx, cancel := context.WithCancel(ctx)
	var lookups sync.WaitGroup
	defer lookups.Wait()
	defer cancel()
	networks := []string{"ip6", "ip4"}
	answers := make(chan lookup, len(networks))
	for _, network := range networks {
		lookups.Go(func() {
			addrs, err := s.resolver.LookupNetIP(ctx, network, s.host)
			answers <- lookup{network, addrs, err}
		})
	}
	var resolved <-chan time.Time
	late := time.After(s.patience)
	pending := len(networks)
	for len(s.given) < maxTargets && (pending > 0 || len(s.waiting) > 0) {
		to, next := s.next(out)
		select {
		case to <- target{addr: next}:
			s.give(next)
		case a := <-answers:
			pending--
			s.take(a)
			if a.network == s.first() || pending == 0 {
				s.ready = true
			} else {
				resolved = time.After(resolutionDelay)
			}
			if pending == 0 && len(s.found) == 0 {
				s.recall()
			}
		case <-resolved:
			s.ready = true
		case <-late:
			if len(s.found) == 0 {
				s.recall()
			}
		case <-ctx.Done():
			return
		}
	}
	s.giveAgain(ctx, out)
}

// first is the network that the first address to try is of.
func (s *search) first() string {
	if len(s.known) > 0 && s.known[0].Is4() {
		return "ip4"
	}
	return "ip6"
}

// take notes down what a look-up has found. It comes before what is recalled.
func (s *search) take(a lookup) {
	if a.err != nil {
		s.err = a.err
		return
	}
	var fresh []netip.Addr
	for _, addr := range a.addrs[:min(len(a.addrs), maxTargets)] {
		addr = addr.Unmap()
		if slices.Contains(s.found, addr) {
			continue
		}
		s.found = append(s.found, addr)
		if slices.Contains(s.given, addr) {
			continue
		}
		s.waiting = slices.DeleteFunc(s.waiting, func(w netip.Addr) bool { return w == addr })
		fresh = append(fresh, addr)
	}
	s.waiting = append(fresh, s.waiting...)
}

// recall makes do with what former searches have found.
func (s *search) recall() {
	s.ready = true
	for _, addr := range s.known {
		if !slices.Contains(s.given, addr) && !slices.Contains(s.waiting, addr) {
			s.waiting = append(s.waiting, addr)
		}
	}
}

// next gives the address to try next, if it is time for one, and where to send
// it. The one that worked last comes first: a session lives on one server, and
// a name may have several. Then the families take turns, IPv6 first.
func (s *search) next(out chan<- target) (chan<- target, netip.Addr) {
	if !s.ready || len(s.waiting) == 0 {
		return nil, netip.Addr{}
	}
	if len(s.given) == 0 && len(s.known) > 0 && slices.Contains(s.waiting, s.known[0]) {
		return out, s.known[0]
	}
	want4 := len(s.given) > 0 && s.given[len(s.given)-1].Is6()
	i := slices.IndexFunc(s.waiting, func(a netip.Addr) bool { return a.Is4() == want4 })
	return out, s.waiting[max(i, 0)]
}

func (s *search) give(addr netip.Addr) {
	s.given = append(s.given, addr)
	s.waiting = slices.DeleteFunc(s.waiting, func(w netip.Addr) bool { return w == addr })
}

func (s *search) giveAgain(ctx context.Context, out chan<- target) {
	if !s.again {
		return
	}
	for _, addr := range s.given[:min(len(s.given), maxTargets-len(s.given))] {
		select {
		case out <- target{addr: addr, plain: true}:
		case <-ctx.Done():
			return
		}
	}
}

// learnt is what to remember when the server has been found at an address: that
// address first, and what was known of a family that has not been found now.
func (s *search) learnt(at netip.Addr) []netip.Addr {
	all := []netip.Addr{at}
	keep := func(addr netip.Addr) {
		if len(all) < maxTargets && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	for _, addr := range s.found {
		keep(addr)
	}
	for _, addr := range s.known {
		if !slices.ContainsFunc(s.found, func(f netip.Addr) bool { return f.Is4() == addr.Is4() }) {
			keep(addr)
		}
	}
	return all
}
