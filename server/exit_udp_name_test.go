package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestNamesAreLookedUpOncePerAssociation(t *testing.T) {
	at := udpEcho(t, "127.0.0.1:0")
	resolver := &answers{addrs: addrs("127.0.0.1")}
	a, in, _ := associate(t, &Exit{Allow: toLoopback, Resolver: resolver})
	var batch []socks.Datagram
	for i := range 10 {
		name := []string{"Peer.Example", "peer.example"}[i%2]
		batch = append(batch, to(socks.Addr{Name: name, Port: at.Port}, fmt.Sprint(i))...)
	}
	a.Send(batch) // all of these wait for one look-up
	for i := range 10 {
		if d := in.next(t); string(d.Payload) != fmt.Sprint(i) || d.Addr != at {
			t.Errorf("%q came from %s", d.Payload, d.Addr)
		}
	}
	a.Send(batch[:1])
	in.next(t)
	if resolver.asked != 1 {
		t.Errorf("%d look-ups", resolver.asked)
	}
}

func TestNameGoesToTheFirstAddressThatIsAllowed(t *testing.T) {
	at := udpEcho(t, "127.0.0.2:0")
	e := &Exit{Allow: toLoopback, Resolver: &answers{addrs: addrs("10.0.0.1", "169.254.169.254", "127.0.0.2", "127.0.0.3")}}
	a, in, _ := associate(t, e)
	a.Send(to(socks.Addr{Name: "peer.example", Port: at.Port}, "x"))
	if d := in.next(t); d.Addr != at {
		t.Errorf("came from %s, want %s", d.Addr, at)
	}
}

// gate is a resolver that answers when it is told to.
type gate struct {
	asked  chan string
	answer chan []netip.Addr // nil for no such name
}

func newGate() *gate {
	return &gate{make(chan string, 1000), make(chan []netip.Addr)}
}

func (g *gate) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	g.asked <- host
	select {
	case a := <-g.answer:
		if a == nil {
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		}
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestSlowNamesHoldNothingUp(t *testing.T) {
	at := udpEcho(t, "127.0.0.1:0")
	g := newGate()
	e := &Exit{Allow: toLoopback, Resolver: g}
	a, in, _ := associate(t, e)
	for i := range 3 * maxAsking {
		for range 10 {
			a.Send(to(socks.Addr{Name: fmt.Sprintf("name%d.example", i), Port: 9}, strings.Repeat("x", 1000)))
		}
	}
	a.Send(to(at, "now"))
	if d := in.next(t); string(d.Payload) != "now" {
		t.Errorf("%q came", d.Payload)
	}
	for range maxAsking {
		<-g.asked
	}
	if got, want := e.Drops().Full, uint64(30*maxAsking-maxWaiting); got != want {
		t.Errorf("%d datagrams were dropped, want %d", got, want)
	}
	if len(g.asked) > 0 || e.shared().lookups.taken() != maxAsking {
		t.Errorf("%d look-ups at once", e.shared().lookups.taken())
	}
	a.Close() // ends the look-ups, too
	if n := e.shared().lookups.taken(); n != 0 {
		t.Errorf("%d look-ups go on", n)
	}
}

func TestAssociationsTogetherLookUpSoMany(t *testing.T) {
	e := &Exit{Resolver: newGate()}
	full(&e.shared().lookups, "", maxExitLookups)
	a, _, _ := associate(t, e)
	a.Send(to(socks.Addr{Name: "peer.example", Port: 9}, "x"))
	if e.Drops().Full != 1 || e.shared().lookups.taken() != maxExitLookups {
		t.Errorf("dropped %+v", e.Drops())
	}
}

// named is what an association without a socket makes of a datagram for a name.
type named struct {
	*association
	resolver *scripted
}

func newNamed() named {
	r := &scripted{}
	e := &Exit{Allow: Allow{Loopback: true}, Resolver: r}
	a := &association{
		exit: e, permit: socks.Request{}.Permits, socket: &udpSocket{}, names: recent[string, *name]{limit: maxNames},
		verdicts: recent[destination, verdict]{limit: maxVerdicts},
	}
	return named{a, r}
}

// scripted is a resolver whose answer is set.
type scripted struct {
	addrs []netip.Addr
	err   error
	asked int
}

func (r *scripted) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	r.asked++
	return slices.Clone(r.addrs), r.err
}

// address gives where a datagram goes now, and lets a look-up that it starts
// end.
func (n named) address(ctx context.Context) netip.Addr {
	n.ctx = ctx
	n.mu.Lock()
	to, known := n.resolved("peer.example", socks.Datagram{Addr: socks.Addr{Name: "peer.example", Port: 9}}, time.Now())
	n.ended = true // what waited has no socket to go to
	n.mu.Unlock()
	n.lookups.Wait()
	n.ended = false
	if !known {
		return netip.Addr{}
	}
	return to.Addr()
}

func TestNamesAreLookedUpAgainInTime(t *testing.T) {
	first, second := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	notFound := &net.DNSError{Err: "no such host", IsNotFound: true}
	synctest.Test(t, func(t *testing.T) {
		n := newNamed()
		for _, step := range []struct {
			what   string
			after  time.Duration
			answer []netip.Addr
			err    error
			now    netip.Addr // where a datagram goes at once
			then   netip.Addr // and after the look-up, if there is one
			asks   int
		}{
			{"nothing is known", 0, nil, notFound, netip.Addr{}, netip.Addr{}, 1},
			{"it is known that there is none", noNameLife - 1, []netip.Addr{first}, nil, netip.Addr{}, netip.Addr{}, 0},
			{"that is long ago", 2, []netip.Addr{first, second}, nil, netip.Addr{}, first, 1},
			{"the answer is young", lifeUnsaid - 1, []netip.Addr{second, first}, nil, first, first, 0},
			{"another order", 2, []netip.Addr{second, first}, nil, first, first, 1},
			{"the resolver is away", lifeUnsaid + 1, nil, errors.New("away"), first, first, 1},
			{"it is asked again soon", noNameLife + 1, []netip.Addr{second}, nil, first, second, 1},
			{"the name is gone", lifeUnsaid + 1, nil, notFound, second, netip.Addr{}, 1},
		} {
			time.Sleep(step.after)
			n.resolver.addrs, n.resolver.err, n.resolver.asked = step.answer, step.err, 0
			if got := n.address(t.Context()); got != step.now {
				t.Errorf("%s: a datagram goes to %s, want %s", step.what, got, step.now)
			}
			if got := n.address(t.Context()); got != step.then {
				t.Errorf("%s: the next one goes to %s, want %s", step.what, got, step.then)
			}
			if n.resolver.asked != step.asks {
				t.Errorf("%s: %d look-ups, want %d", step.what, n.resolver.asked, step.asks)
			}
		}
	})
}

func TestRebindingNameStaysOut(t *testing.T) {
	own, ownAt := listenPeer(t, "127.0.0.1:0")
	good := udpEcho(t, "127.0.0.2:0")
	// Now the one, now the other, now both.
	resolver := &rebinding{good: good.IP, bad: ownAt.IP}
	e := &Exit{Allow: toLoopback, Own: []netip.AddrPort{netip.AddrPortFrom(ownAt.IP, ownAt.Port)}, Resolver: resolver}
	for range 8 {
		a, _, _ := associate(t, e)
		for range 5 {
			a.Send(to(socks.Addr{Name: "peer.example", Port: good.Port}, "x"))
			a.Send(to(socks.Addr{Name: "peer.example", Port: ownAt.Port}, "x"))
		}
		a.Close()
	}
	if err := own.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := own.ReadFromUDPAddrPort(make([]byte, 10)); err == nil {
		t.Error("the name led to an own listener")
	}
}
