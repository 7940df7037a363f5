package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

// mailbox is an Inbox that keeps a copy of everything.
type mailbox struct {
	mail   chan socks.Datagram
	losses chan socks.Loss
}

func newMailbox() *mailbox {
	return &mailbox{make(chan socks.Datagram, 100_000), make(chan socks.Loss, 1000)}
}

func (m *mailbox) Deliver(batch []socks.Datagram) {
	for _, d := range batch {
		d.Payload = bytes.Clone(d.Payload)
		m.mail <- d
	}
}

func (m *mailbox) Lost(l socks.Loss) { m.losses <- l }

// next gives the next datagram that came.
func (m *mailbox) next(t testing.TB) socks.Datagram {
	t.Helper()
	select {
	case d := <-m.mail:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("no datagram comes")
		panic("unreachable")
	}
}

func (m *mailbox) loss(t testing.TB) socks.Loss {
	t.Helper()
	select {
	case l := <-m.losses:
		return l
	case <-time.After(10 * time.Second):
		t.Fatal("nobody tells of a loss")
		panic("unreachable")
	}
}

// associate opens an association that is closed at the end of the test.
func associate(t testing.TB, e *Exit) (socks.Association, *mailbox, uint16) {
	t.Helper()
	m := newMailbox()
	a, reply, err := e.Associate(t.Context(), socks.Request{Command: socks.Associate}, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if reply.Code != socks.Succeeded || reply.Bound.Port() == 0 {
		t.Fatalf("reply is %+v", reply)
	}
	return a, m, reply.Bound.Port()
}

// listenPeer opens a peer's socket.
func listenPeer(t testing.TB, address string) (*net.UDPConn, socks.Addr) {
	t.Helper()
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	at := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = pc.(*net.UDPConn).SetReadBuffer(4 << 20)
	return pc.(*net.UDPConn), socks.Addr{IP: at.Addr(), Port: at.Port()}
}

// udpEcho is a peer that sends everything back.
func udpEcho(t testing.TB, address string) socks.Addr {
	t.Helper()
	conn, at := listenPeer(t, address)
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(b[:n], from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return at
}

// heard reads what a peer gets next, and whom from.
func heard(t testing.TB, peer *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 64<<10)
	if err := peer.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, from, err := peer.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}

func to(addr socks.Addr, payload string) []socks.Datagram {
	return []socks.Datagram{{Addr: addr, Payload: []byte(payload)}}
}

var toLoopback = Allow{Loopback: true}

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

// waitFor waits for what there is no event for.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
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

func TestFilteringDecidesWhoseDatagramsComeIn(t *testing.T) {
	for _, test := range []struct {
		filtering Filtering
		want      []string
	}{
		{EndpointIndependent, []string{"stranger", "other port", "peer"}},
		{AddressDependent, []string{"other port", "peer"}},
		{AddressAndPortDependent, []string{"peer"}},
	} {
		t.Run(test.filtering.String(), func(t *testing.T) {
			a, in, port := associate(t, &Exit{Allow: toLoopback, Filtering: test.filtering})
			peer, at := listenPeer(t, "127.0.0.1:0")
			otherPort, _ := listenPeer(t, "127.0.0.1:0")
			stranger, _ := listenPeer(t, "127.0.0.3:0")
			a.Send(to(at, "hello"))
			heard(t, peer)
			for _, sender := range []struct {
				conn *net.UDPConn
				name string
			}{{stranger, "stranger"}, {otherPort, "other port"}, {peer, "peer"}} {
				if _, err := sender.conn.WriteToUDPAddrPort([]byte(sender.name), netip.AddrPortFrom(at.IP, port)); err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range test.want {
				if d := in.next(t); string(d.Payload) != want {
					t.Errorf("%q came, want %q", d.Payload, want)
				}
			}
		})
	}
}

func TestFilteringHasWordsThatCanBeRead(t *testing.T) {
	for _, f := range []Filtering{EndpointIndependent, AddressDependent, AddressAndPortDependent} {
		if got, err := ParseFiltering(f.String()); err != nil || got != f {
			t.Errorf("%s is read as %s, %v", f, got, err)
		}
	}
	if _, err := ParseFiltering("filtering 7"); err == nil || Filtering(7).String() != "filtering 7" {
		t.Error("there is a seventh filtering")
	}
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
	a, in, _ := associate(t, &Exit{Allow: toLoopback, AssociationIdle: idle})
	at := udpEcho(t, "127.0.0.1:0")
	for began := time.Now(); time.Since(began) < 3*idle; {
		a.Send(to(at, "x"))
		in.next(t)
	}
	select {
	case <-a.Done():
		t.Error("it has ended")
	default:
	}
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

func TestRecentForgetsWhatWasUsedLongestAgo(t *testing.T) {
	r := recent[int, string]{limit: 100}
	for i := range 10_000 {
		r.put(i, fmt.Sprint(i))
		if got, ok := r.get(0); !ok || got != "0" {
			t.Fatalf("after %d others, 0 is %q", i, got)
		}
		if n := len(r.new) + len(r.old); n > 100 {
			t.Fatalf("%d entries", n)
		}
	}
	if _, ok := r.get(9960); !ok {
		t.Error("one of the last 50 is not there")
	}
	if _, ok := r.get(9800); ok {
		t.Error("one before the last 100 is there")
	}
}

func TestVerdictsAreForgottenWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Exit{Allow: toLoopback}
		a := &association{exit: e, verdicts: recent[netip.AddrPort, verdict]{limit: maxVerdicts}}
		peer := netip.MustParseAddrPort("127.0.0.1:53")
		if !a.allows(peer, time.Now()) {
			t.Fatal("not allowed")
		}
		e.Own = []netip.AddrPort{peer} // as if this host had got the address
		if !a.allows(peer, time.Now()) {
			t.Error("the verdict was not kept")
		}
		time.Sleep(verdictLife + 1)
		if a.allows(peer, time.Now()) {
			t.Error("the verdict was kept for too long")
		}
	})
}
