package server

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// loopbackExit lets peers come from this host.
func loopbackExit() *Exit { return &Exit{Allow: Allow{Loopback: true}} }

func bindFor(t testing.TB, host string, port uint16) socks.Request {
	t.Helper()
	r := connectTo(t, host, port)
	r.Command = socks.Bind
	return r
}

// backlog adds a backlog to a BIND.
func backlog(r socks.Request, n uint16) socks.Request {
	r.Stack = []socks.StackOption6{{Leg: socks.TargetLeg6, Kind: socks.StackBacklog6, Value: n}}
	return r
}

// open opens a port that is closed when the test ends.
func open(t testing.TB, e *Exit, r socks.Request) (socks.Binding, socks.Reply) {
	t.Helper()
	b, reply, err := e.Bind(t.Context(), r)
	if err != nil {
		t.Fatalf("bind for %s: %v", r.Dst, err)
	}
	t.Cleanup(func() { b.Close() })
	if reply.Code != socks.Succeeded || reply.Bound.Port() == 0 {
		t.Fatalf("reply %+v", reply)
	}
	return b, reply
}

// peer connects from one of this host's addresses.
func peer(t testing.TB, from string, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	c, err := d.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// accepted is what an Accept has given.
type accepted struct {
	conn  relay.Conn
	reply socks.Reply
	err   error
}

// accepting calls Accept.
func accepting(ctx context.Context, b socks.Binding) <-chan accepted {
	got := make(chan accepted, 1)
	go func() {
		conn, reply, err := b.Accept(ctx)
		got <- accepted{conn, reply, err}
	}()
	return got
}

// is wants the peer to be c.
func (a accepted) is(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if a.err != nil {
		t.Fatal(a.err)
	}
	t.Cleanup(func() { a.conn.Close() })
	if want := c.LocalAddr().(*net.TCPAddr).AddrPort(); a.reply.Bound != want {
		t.Errorf("the second reply has %s, the peer is %s", a.reply.Bound, want)
	}
	if _, err := io.WriteString(c, "from the peer"); err != nil {
		t.Error(err)
	}
	got := make([]byte, len("from the peer"))
	a.conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(a.conn, got); err != nil || string(got) != "from the peer" {
		t.Errorf("read %q, %v", got, err)
	}
}

// wantClosed wants nobody to listen any more.
func wantClosed(t testing.TB, at netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect to a port that is closed: %v", err)
	}
}

// stranger connects from one of this host's addresses, and wants to be reset: sooner
// or later.
func stranger(t testing.TB, from string, to netip.AddrPort) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	c, err := d.DialContext(t.Context(), "tcp", to.String())
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a stranger sees %v, want a reset", err)
	}
}

func TestPortAcceptsOnePeerAndCloses(t *testing.T) {
	for _, test := range []struct {
		host, from string
		answer     []netip.Addr
	}{
		{"127.0.0.1", "127.0.0.1", nil},
		{"::1", "::1", nil},
		{"::ffff:127.0.0.1", "127.0.0.1", nil},
		{"0.0.0.0", "127.0.0.1", nil},
		{"peer.example", "127.0.0.3", addrs("192.0.2.1", "127.0.0.3")},
		{"peer.example", "::1", addrs("10.0.0.1", "::1", "127.0.0.1")},
	} {
		e := loopbackExit()
		e.Resolver = &answers{addrs: test.answer}
		b, reply := open(t, e, bindFor(t, test.host, 21))
		at := reply.Bound
		if at.Addr().IsUnspecified() || at.Addr().Is4In6() {
			t.Errorf("%s: the reply has %s", test.host, at)
		}
		if len(test.answer) > 0 || test.host == "0.0.0.0" { // the reply's may be another of this host's
			at = netip.AddrPortFrom(netip.MustParseAddr(test.from), at.Port())
		}
		got := accepting(t.Context(), b)
		c := peer(t, test.from, at)
		receive(t, got, "the peer").is(t, c)
		wantClosed(t, at)
		if _, _, err := b.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: a second Accept: %v", test.host, err)
		}
	}
}

func TestUnspecifiedIPv6AsksForAnAddressThatIsOne(t *testing.T) {
	e := loopbackExit()
	e.Binds.Advertise = addrs("203.0.113.1", "2001:db8::1")
	for host, want := range map[string]string{
		"::":        "2001:db8::1",
		"0.0.0.0":   "203.0.113.1",
		"127.0.0.1": "203.0.113.1",
		"::1":       "2001:db8::1",
	} {
		if _, reply := open(t, e, bindFor(t, host, 0)); reply.Bound.Addr().String() != want {
			t.Errorf("for %s the reply has %s", host, reply.Bound)
		}
	}
}

func TestStrangersAreResetAndThePortWaitsOn(t *testing.T) {
	e := loopbackExit()
	b, reply := open(t, e, bindFor(t, "127.0.0.2", 21))
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), reply.Bound.Port())
	got := accepting(t.Context(), b)
	for range maxStrangers - 1 {
		stranger(t, "127.0.0.3", at)
	}
	c := peer(t, "127.0.0.2", at)
	receive(t, got, "the peer").is(t, c)
}

func TestTooManyStrangersCloseThePort(t *testing.T) {
	b, reply := open(t, loopbackExit(), bindFor(t, "127.0.0.2", 21))
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), reply.Bound.Port())
	got := accepting(t.Context(), b)
	for range maxStrangers {
		stranger(t, "127.0.0.3", at)
	}
	if a := receive(t, got, "the end"); socks.CodeOf(a.err) != socks.NotAllowed {
		t.Errorf("Accept: %v", a.err)
	}
	wantClosed(t, at)
}

func TestPeersAreJudgedAsTargetsAre(t *testing.T) {
	strict := &Exit{Resolver: &answers{addrs: addrs("10.0.0.1", "169.254.169.254")}}
	for _, host := range []string{
		"127.0.0.1", "10.0.0.1", "::1", "169.254.169.254", "255.255.255.255", "224.0.0.1", "0.0.0.1",
		"::ffff:127.0.0.1", "64:ff9b::7f00:1", "peer.example", "127.1", "0x7f000001",
	} {
		if _, reply, err := strict.Bind(t.Context(), bindFor(t, host, 21)); socks.CodeOf(err) != socks.NotAllowed || reply.Code != socks.NotAllowed {
			t.Errorf("%s: %v, %+v", host, err, reply)
		}
	}
	// Anybody may come, and yet not from here.
	b, reply := open(t, strict, bindFor(t, "0.0.0.0", 0))
	got := accepting(t.Context(), b)
	stranger(t, "127.0.0.1", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), reply.Bound.Port()))
	b.Close()
	if a := receive(t, got, "the end"); !errors.Is(a.err, net.ErrClosed) {
		t.Errorf("Accept: %v", a.err)
	}
}

func TestNamesOfPeersThatDoNotResolveAreUnreachable(t *testing.T) {
	e := loopbackExit()
	e.Resolver = &answers{err: &net.DNSError{IsNotFound: true}}
	if _, _, err := e.Bind(t.Context(), bindFor(t, "peer.example", 21)); socks.CodeOf(err) != socks.HostUnreachable {
		t.Errorf("bind: %v", err)
	}
}

func TestPortClosesWhenNobodyComes(t *testing.T) {
	e := loopbackExit()
	e.Binds.Lifetime = 50 * time.Millisecond
	b, reply := open(t, e, bindFor(t, "127.0.0.1", 21))
	if a := receive(t, accepting(t.Context(), b), "the end"); socks.CodeOf(a.err) != socks.TimedOut || a.reply.Code != socks.TimedOut {
		t.Errorf("Accept: %v, %+v", a.err, a.reply)
	}
	wantClosed(t, reply.Bound)
}

func TestAcceptCanBeGivenUpAndCalledAgain(t *testing.T) {
	b, reply := open(t, loopbackExit(), bindFor(t, "127.0.0.1", 21))
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		first, second := accepting(ctx, b), accepting(ctx, b)
		cancel()
		for _, got := range []<-chan accepted{first, second} {
			if a := receive(t, got, "the end"); !errors.Is(a.err, context.Canceled) {
				t.Fatalf("Accept: %v", a.err)
			}
		}
	}
	c := peer(t, "127.0.0.1", reply.Bound)
	receive(t, accepting(t.Context(), b), "the peer").is(t, c)
}

func TestCloseWakesAccept(t *testing.T) {
	b, reply := open(t, loopbackExit(), bindFor(t, "127.0.0.1", 21))
	got := accepting(t.Context(), b)
	b.Close()
	if a := receive(t, got, "the end"); !errors.Is(a.err, net.ErrClosed) {
		t.Errorf("Accept: %v", a.err)
	}
	wantClosed(t, reply.Bound)
}

func TestBacklogAcceptsSeveral(t *testing.T) {
	e := loopbackExit()
	e.Binds.Lifetime = 10 * time.Second
	b, reply := open(t, e, backlog(bindFor(t, "127.0.0.1", 21), 4))
	if reply.Backlog() != 4 {
		t.Errorf("reply %+v", reply)
	}
	first, second := accepting(t.Context(), b), accepting(t.Context(), b)
	for range 3 {
		c := peer(t, "127.0.0.1", reply.Bound)
		select {
		case a := <-first:
			a.is(t, c)
			first = accepting(t.Context(), b)
		case a := <-second:
			a.is(t, c)
			second = accepting(t.Context(), b)
		case <-time.After(patience):
			t.Fatal("the peer did not come")
		}
	}
	b.Close()
	for _, got := range []<-chan accepted{first, second} {
		if a := receive(t, got, "the end"); !errors.Is(a.err, net.ErrClosed) {
			t.Errorf("Accept: %v", a.err)
		}
	}
	if _, reply := open(t, e, backlog(bindFor(t, "127.0.0.1", 21), 60_000)); reply.Backlog() != maxBacklog {
		t.Errorf("a backlog of %d is granted", reply.Backlog())
	}
}

func TestPortsAreOfTheRangeUntilAllAreTaken(t *testing.T) {
	first := freeRun(t, 3)
	e := loopbackExit()
	e.Binds.Ports = Ports{first, first + 2}
	e.Own = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), first+1)}
	known := map[uint16]bool{}
	for range 2 {
		_, reply := open(t, e, bindFor(t, "127.0.0.1", 21))
		known[reply.Bound.Port()] = true
	}
	if !known[first] || !known[first+2] {
		t.Errorf("of %d to %d, those are open: %v", first, first+2, known)
	}
	_, reply, err := e.Bind(t.Context(), bindFor(t, "127.0.0.1", 21))
	if socks.CodeOf(err) != socks.GeneralFailure || reply.Code != socks.GeneralFailure {
		t.Errorf("bind when all are taken: %v, %+v", err, reply)
	}
}

func TestWishForAPortIsGrantedIfItCanBe(t *testing.T) {
	first := freeRun(t, 3)
	e := loopbackExit()
	_, reply := open(t, e, bindFor(t, "0.0.0.0", first))
	if reply.Bound.Port() != first {
		t.Errorf("port %d, want %d", reply.Bound.Port(), first)
	}
	e.Binds.Ports = Ports{first, first + 2}
	for _, wish := range []uint16{first, first + 10, 80} { // taken, outside, outside
		_, reply := open(t, e, bindFor(t, "0.0.0.0", wish))
		if p := reply.Bound.Port(); p <= first || p > first+2 {
			t.Errorf("a wish for %d gives %d", wish, p)
		}
		if wish == first+10 {
			break // the range is full
		}
	}
	// That of a peer's is none: it says where the app is connected already.
	if _, reply := open(t, loopbackExit(), bindFor(t, "127.0.0.1", first+5)); reply.Bound.Port() == first+5 {
		t.Error("the peer's port was taken for a wish")
	}
}

// freeRun gives the first of n ports in a row that are free. They are below those that
// systems give to whoever asks for any, or somebody could get one meanwhile.
func freeRun(t testing.TB, n uint16) (first uint16) {
	t.Helper()
search:
	for range 1000 {
		first = 10_000 + rand.N[uint16](20_000)
		for port := first; port < first+n; port++ {
			ln, err := net.Listen("tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port).String())
			if err != nil {
				continue search
			}
			ln.Close()
		}
		return first
	}
	t.Fatal("no ports are free")
	return 0
}

func TestPortsParse(t *testing.T) {
	for text, want := range map[string]Ports{
		"":            {},
		"40000-40999": {40000, 40999},
		"1-65535":     {1, 65535},
		"21":          {21, 21},
	} {
		if got, err := ParsePorts(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"-", "0", "0-5", "5-4", "1-65536", "a-b", "1-2-3", " 1-2", "+1-2"} {
		if got, err := ParsePorts(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestCandidatesGoThroughTheRangeOnce(t *testing.T) {
	known := map[uint16]int{}
	for port := range (Ports{65000, 65535}).candidates(0) {
		known[port]++
	}
	for port := range uint16(536) {
		if known[65000+port] != 1 {
			t.Errorf("port %d comes %d times", 65000+port, known[65000+port])
		}
	}
	if len(known) != 536 {
		t.Errorf("%d ports", len(known))
	}
	tries := 0
	for range (Ports{1, 65535}).candidates(0) {
		tries++
	}
	if tries != maxPortTries {
		t.Errorf("%d tries", tries)
	}
}
