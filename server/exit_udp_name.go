package server

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

const (
	noNameLife = 5 * time.Second // after which a name without addresses is looked up again

	maxNames       = 256  // that an association remembers
	maxAsking      = 4    // of an association's look-ups at once
	maxExitLookups = 1024 // of all associations' together, of which a user has a share
	maxWaiting     = 16   // datagrams that wait for an association's look-ups
)

// name is what an association knows of a host name.
type name struct {
	addrs  []netip.Addr // the best first
	until  time.Time    // when to ask again
	asking bool
	queue  []socks.Datagram // sent while it had no address
}

// resolved gives the address that a datagram for a name goes to. If it is not known
// yet, the datagram waits for it or is dropped. a.mu is held.
func (a *association) resolved(host string, d socks.Datagram, now time.Time) (to netip.AddrPort, known bool) {
	n, ok := a.names.get(host)
	if !ok {
		n = &name{}
		a.names.put(host, n)
	}
	if !n.asking && now.After(n.until) {
		a.ask(n, host)
	}
	if len(n.addrs) == 0 {
		a.queue(n, d, now)
		return netip.AddrPort{}, false
	}
	for _, addr := range n.addrs {
		to = netip.AddrPortFrom(addr, d.Addr.Port)
		if v := a.verdictOf(destination{host, to}, now); v.allowed || v.asked != nil {
			break
		}
	}
	return to, true // if none of them is allowed, the last one is not
}

// queue keeps a copy of a datagram until its name is known. a.mu is held.
func (a *association) queue(n *name, d socks.Datagram, now time.Time) {
	switch {
	case n.asking && a.waiting < maxWaiting:
		a.waiting++
		d.Payload = slices.Clone(d.Payload)
		n.queue = append(n.queue, d)
	case !n.asking && now.Before(n.until):
		a.exit.shared().unknown.Add(1)
	default:
		a.exit.shared().full.Add(1)
	}
}

// ask starts to look a name up, if there are not too many look-ups already.
// a.mu is held.
func (a *association) ask(n *name, host string) {
	if a.asking == maxAsking || !a.exit.shared().lookups.take(a.user, maxExitLookups) {
		return
	}
	n.asking = true
	a.asking++
	a.lookups.Go(func() {
		addrs, good, err := a.exit.lookUp(a.ctx, host)
		a.exit.shared().lookups.give(a.user)
		a.Send(a.answered(n, addrs, good, err))
	})
}

// answered notes what has become of a look-up, and how long that is good for, and
// gives the datagrams that waited for it.
func (a *association) answered(n *name, addrs []netip.Addr, good time.Duration, err error) []socks.Datagram {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asking--
	n.asking = false
	dns, _ := errors.AsType[*net.DNSError](err)
	switch {
	case err == nil:
		n.addrs, n.until = inOrderOf(n.addrs, addrs), time.Now().Add(good)
	case dns != nil && dns.IsNotFound, errors.Is(err, errNoAddress):
		n.addrs, n.until = nil, time.Now().Add(noNameLife)
	default:
		// That the resolver is away says nothing of what was known before.
		n.until = time.Now().Add(noNameLife)
	}
	batch := n.queue
	n.queue = nil
	a.waiting -= len(batch)
	return batch
}

// inOrderOf sorts addresses as they were before. Answers come in any order, but a
// peer should stay the same while it can.
func inOrderOf(before, addrs []netip.Addr) []netip.Addr {
	rank := func(a netip.Addr) int {
		if i := slices.Index(before, a); i >= 0 {
			return i
		}
		return len(before)
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
	return addrs
}

// lookUp gives the addresses of a name, and how long they are good for: those to
// which this host has a way, or one if it has none to any. Nobody has judged them.
func (e *Exit) lookUp(ctx context.Context, host string) (addrs []netip.Addr, good time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout())
	defer cancel()
	resolver := e.Resolver
	var l life
	if resolver == nil {
		resolver = e.newResolver(l.hear)
	}
	found, err := resolve(ctx, resolver, socks.Addr{Name: host})
	if err != nil {
		return nil, 0, err
	}
	for _, a := range found {
		if a = a.Unmap(); e.hasWay(a) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		addrs = append(addrs, found[0].Unmap())
	}
	return addrs, l.bounded(), nil
}

// hasWay tells whether this host knows a way to an address. Nothing is sent.
func (e *Exit) hasWay(a netip.Addr) bool {
	d := net.Dialer{Control: e.Steer.control}
	conn, err := d.Dial("udp", netip.AddrPortFrom(a, 9).String())
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
