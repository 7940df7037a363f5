package server

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestAssociationReachesPeersOfBothFamiliesFromOnePort(t *testing.T) {
	a, in, port := associate(t, &Exit{Allow: toLoopback})
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "127.0.0.2:0"} {
		peer, at := listenPeer(t, address)
		a.Send(to(at, "hello"))
		got, from := heard(t, peer)
		if got != "hello" || from.Port() != port {
			t.Errorf("%s got %q from %s, want port %d", at, got, from, port)
		}
		if _, err := peer.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		if d := in.next(t); string(d.Payload) != "answer" || d.Addr != at {
			t.Errorf("%q came from %s, want %s", d.Payload, d.Addr, at)
		}
	}
}

func TestAssociationTakesMappedAddressesForWhatTheyAre(t *testing.T) {
	a, in, _ := associate(t, &Exit{Allow: toLoopback})
	at := udpEcho(t, "127.0.0.1:0")
	mapped := socks.Addr{IP: netip.AddrFrom16(at.IP.As16()), Port: at.Port}
	a.Send(to(mapped, "x"))
	if d := in.next(t); d.Addr != at {
		t.Errorf("came from %s, want %s", d.Addr, at)
	}
}

func TestDatagramsOfEverySizePass(t *testing.T) {
	a, in, _ := associate(t, &Exit{Allow: toLoopback})
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		at := udpEcho(t, address)
		for _, size := range []int{0, 1, 1200, 1472, 1473, 9000, 32_743, maxDatagram - 1, maxDatagram} {
			sent := make([]byte, size)
			for i := range sent {
				sent[i] = byte(rand.Uint32())
			}
			a.Send([]socks.Datagram{{Addr: at, Payload: sent}})
			if d := in.next(t); !bytes.Equal(d.Payload, sent) || d.Addr != at {
				t.Errorf("%d bytes to %s: %d bytes came from %s", size, at, len(d.Payload), d.Addr)
			}
		}
		a.Send([]socks.Datagram{{Addr: at, Payload: make([]byte, maxDatagram+1)}})
		a.Send(to(at, "last"))
		if d := in.next(t); string(d.Payload) != "last" {
			t.Errorf("%d bytes passed", len(d.Payload))
		}
	}
}

// What is sent in runs of all kinds arrives as the same datagrams, in their order.
func TestRunsOfDatagramsArriveAsTheyWere(t *testing.T) {
	a, in, port := associate(t, &Exit{Allow: toLoopback})
	peer, at := listenPeer(t, "127.0.0.1:0")
	other, otherAt := listenPeer(t, "[::1]:0")
	var batch []socks.Datagram
	add := func(addr socks.Addr, count, size int) {
		for range count {
			b := bytes.Repeat([]byte{byte(len(batch))}, size)
			batch = append(batch, socks.Datagram{Addr: addr, Payload: b})
		}
	}
	add(at, 70, 1200) // more than one bundle
	add(at, 1, 100)   // ends it
	add(at, 1, 0)
	add(otherAt, 3, 64)
	add(at, 2, 64)
	add(at, 1, 65) // longer than the run
	add(otherAt, 3, 30_000)
	add(otherAt, 5, 20_000) // more than a bundle holds
	a.Send(batch)
	for i, d := range batch {
		from := peer
		if d.Addr == otherAt {
			from = other
		}
		if got, _ := heard(t, from); got != string(d.Payload) {
			t.Fatalf("datagram %d has %d bytes, want %d", i, len(got), len(d.Payload))
		}
	}

	// The way back: what one association sends in bundles, another takes in.
	back, _, _ := associate(t, &Exit{Allow: toLoopback})
	for i := range batch {
		batch[i].Addr = socks.Addr{IP: at.IP, Port: port}
	}
	for chunk := range slices.Chunk(batch, 20) {
		back.Send(chunk)
		for i, d := range chunk {
			if got := in.next(t); !bytes.Equal(got.Payload, d.Payload) {
				t.Fatalf("datagram %d of a chunk has %d bytes, want %d", i, len(got.Payload), len(d.Payload))
			}
		}
	}
}

func TestEveryDatagramIsJudged(t *testing.T) {
	good, goodAt := listenPeer(t, "127.0.0.1:0")
	own, ownAt := listenPeer(t, "127.0.0.1:0")
	e := &Exit{
		Allow:    toLoopback,
		Own:      []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), ownAt.Port)},
		Resolver: byName{"own.example": addrs("127.0.0.1"), "meta.example": addrs("169.254.169.254", "10.0.0.1")},
	}
	a, in, port := associate(t, e)
	bad := []socks.Addr{
		ownAt,
		{IP: netip.MustParseAddr("::ffff:127.0.0.1"), Port: ownAt.Port},
		{IP: netip.MustParseAddr("127.0.0.9"), Port: ownAt.Port},
		{Name: "own.example", Port: ownAt.Port},
		{Name: "127.0.0.1.", Port: ownAt.Port},
		{Name: "meta.example", Port: 53},
		{IP: goodAt.IP},
		{IP: netip.MustParseAddr("10.0.0.1"), Port: 53},
		{IP: netip.MustParseAddr("169.254.169.254"), Port: 80},
		{IP: netip.MustParseAddr("224.0.0.251"), Port: 5353},
		{IP: netip.MustParseAddr("255.255.255.255"), Port: 67},
		{IP: netip.MustParseAddr("0.0.0.0"), Port: goodAt.Port},
		{IP: netip.MustParseAddr("::"), Port: goodAt.Port},
		{IP: netip.MustParseAddr("ff02::1"), Port: 5353},
	}
	var batch []socks.Datagram
	for _, to := range bad {
		batch = append(batch, socks.Datagram{Addr: goodAt, Payload: []byte("good")}, socks.Datagram{Addr: to, Payload: []byte("bad")})
	}
	a.Send(batch)
	for range bad {
		if got, _ := heard(t, good); got != "good" {
			t.Errorf("the allowed peer got %q", got)
		}
	}
	// Names are looked up meanwhile, and one of them for a good peer in the end.
	waitFor(t, func() bool { return e.Drops().Denied == uint64(len(bad)) })

	// Nor may what is not allowed come in.
	_, err := own.WriteToUDPAddrPort([]byte("bad"), netip.AddrPortFrom(ownAt.IP, port))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := good.WriteToUDPAddrPort([]byte("good"), netip.AddrPortFrom(goodAt.IP, port)); err != nil {
		t.Fatal(err)
	}
	if d := in.next(t); d.Addr != goodAt {
		t.Errorf("%q came in from %s", d.Payload, d.Addr)
	}
	// Whatever was sent to an own listener would be there by now.
	if err := own.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, _, err := own.ReadFromUDPAddrPort(make([]byte, 10)); err == nil {
		t.Errorf("an own listener got %d bytes", n)
	}
}

// byName is a resolver that knows some names.
type byName map[string][]netip.Addr

func (r byName) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := r[host]; ok {
		return slices.Clone(a), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func TestAssociationServesManyPeers(t *testing.T) {
	a, in, _ := associate(t, &Exit{Allow: toLoopback, Filtering: AddressAndPortDependent})
	for i := range 300 { // more than verdicts are kept
		at := udpEcho(t, fmt.Sprintf("127.1.%d.%d:0", i>>8, i&255))
		a.Send(to(at, at.String()))
		if d := in.next(t); d.Addr != at || string(d.Payload) != at.String() {
			t.Errorf("%s answered for %s", d.Addr, at)
		}
	}
}

func TestAssociationsAreCounted(t *testing.T) {
	e := &Exit{Associations: 2}
	first, _, _ := associate(t, e)
	associate(t, e)
	_, reply, err := e.Associate(t.Context(), socks.Request{}, newMailbox())
	if err == nil || reply.Code != socks.GeneralFailure {
		t.Fatalf("a third one: %+v, %v", reply, err)
	}
	first.Close()
	associate(t, e)
}

func TestClosedAssociationIsSilent(t *testing.T) {
	e := &Exit{Allow: toLoopback}
	peer, at := listenPeer(t, "127.0.0.1:0")
	for range 20 {
		in := newMailbox()
		a, reply, err := e.Associate(t.Context(), socks.Request{}, in)
		if err != nil {
			t.Fatal(err)
		}
		var flood sync.WaitGroup
		flood.Go(func() {
			for range 200 {
				_, _ = peer.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(at.IP, reply.Bound.Port()))
				a.Send(to(at, "y"))
			}
		})
		in.next(t)
		select {
		case <-a.Done():
			t.Fatal("done before it is closed")
		default:
		}
		a.Close()
		came := len(in.mail)
		select {
		case <-a.Done():
		default:
			t.Error("closed and not done")
		}
		a.Send(to(at, "late"))
		flood.Wait()
		if len(in.mail) != came {
			t.Fatalf("%d datagrams came after Close", len(in.mail)-came)
		}
		a.Close() // once more does no harm
	}
}

func TestAssociationOutlivesItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in := newMailbox()
	e := &Exit{Allow: toLoopback, Resolver: byName{"peer.example": addrs("127.0.0.1")}}
	a, _, err := e.Associate(ctx, socks.Request{}, in)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	at := udpEcho(t, "127.0.0.1:0")
	a.Send(to(socks.Addr{Name: "peer.example", Port: at.Port}, "x"))
	in.next(t)
}

func TestIdleAssociationEnds(t *testing.T) {
	a, _, _ := associate(t, &Exit{AssociationIdle: time.Millisecond})
	select {
	case <-a.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestBusyAssociationIsNotIdle(t *testing.T) {
	const idle = 300 * time.Millisecond
	at := udpEcho(t, "127.0.0.1:0")
	for range 20 {
		a, in, _ := associate(t, &Exit{Allow: toLoopback, AssociationIdle: idle})
		began := time.Now()
		last, pause := began, time.Duration(0)
		for pause < idle/2 && time.Since(began) < 3*idle {
			a.Send(to(at, "x"))
			select {
			case <-in.mail:
			case <-a.Done():
			}
			pause, last = max(pause, time.Since(last)), time.Now()
		}
		if pause >= idle/2 {
			continue // the machine had other things to do, and it was idle
		}
		select {
		case <-a.Done():
			t.Error("it has ended")
		default:
		}
		return
	}
	t.Error("the machine is too busy to tell")
}

func TestSendNeverWaits(t *testing.T) {
	// Nobody reads what comes here, and the socket takes more than any buffer holds.
	_, at := listenPeer(t, "127.0.0.1:0")
	a, _, _ := associate(t, &Exit{Allow: toLoopback})
	payload := make([]byte, 60_000)
	began := time.Now()
	for range 2000 {
		a.Send([]socks.Datagram{{Addr: at, Payload: payload}})
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it takes %v", took)
	}
}
