package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// answers is a resolver that gives the same answer for every name.
type answers struct {
	addrs []netip.Addr
	err   error
	asked int
}

func (r *answers) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	r.asked++
	return r.addrs, r.err
}

func addrs(all ...string) []netip.Addr {
	parsed := make([]netip.Addr, len(all))
	for i, a := range all {
		parsed[i] = netip.MustParseAddr(a)
	}
	return parsed
}

func connectTo(t testing.TB, host string, port uint16) socks.Request {
	t.Helper()
	dst, err := socks.NewAddr(host, port)
	if err != nil {
		t.Fatal(err)
	}
	return socks.Request{Command: socks.Connect, Dst: dst}
}

// echo listens on an address, sends back what it gets, and tells whom it gets
// it from.
func echo(t testing.TB, address string) (port uint16, from chan netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	from = make(chan netip.AddrPort, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), from
}

func TestConnectReachesTargetsOfBothFamilies(t *testing.T) {
	for _, test := range []struct {
		listen, host string
		answer       []netip.Addr
	}{
		{"127.0.0.1:0", "127.0.0.1", nil},
		{"[::1]:0", "[::1]", nil},
		{"127.0.0.1:0", "::ffff:127.0.0.1", nil},
		{"127.0.0.1:0", "name.example", addrs("127.0.0.1")},
		{"127.0.0.1:0", "name.example", addrs("::ffff:127.0.0.1")},
		{"[::1]:0", "name.example", addrs("::1")},
		{"127.0.0.1:0", "name.example", addrs("::1", "127.0.0.1")},                 // nobody listens on ::1
		{"127.0.0.1:0", "name.example", addrs("10.0.0.1", "0.0.0.0", "127.0.0.1")}, // the others are not allowed
	} {
		port, from := echo(t, test.listen)
		resolver := &answers{addrs: test.answer}
		e := &Exit{Allow: Allow{Loopback: true}, Resolver: resolver}
		conn, reply, err := e.Connect(t.Context(), connectTo(t, test.host, port))
		if err != nil {
			t.Errorf("%s at %s: %v", test.host, test.listen, err)
			continue
		}
		if seen := <-from; reply.Code != socks.Succeeded || reply.Bound != seen {
			t.Errorf("%s: reply is %+v, and the target saw %s", test.host, reply, seen)
		}
		roundTrip(t, conn)
		if want := min(len(test.answer), 1); resolver.asked != want {
			t.Errorf("%s: %d look-ups", test.host, resolver.asked)
		}
	}
}

// roundTrip proves that a conn is the one it should be, and closes it.
func roundTrip(t *testing.T, conn relay.Conn) {
	t.Helper()
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Error(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestConnectOutlivesItsContext(t *testing.T) {
	port, _ := echo(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	conn, _, err := (&Exit{Allow: Allow{Loopback: true}}).Connect(ctx, connectTo(t, "127.0.0.1", port))
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, conn)
}

func TestConnectTellsWhyItFailed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().(*net.TCPAddr).AddrPort().Port()
	l.Close()
	own := []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), closed)}

	for _, test := range []struct {
		name     string
		exit     *Exit
		host     string
		port     uint16
		resolver answers
		want     socks.Code
		asked    int
	}{
		{"refused", &Exit{Allow: Allow{Loopback: true}}, "127.0.0.1", closed, answers{}, socks.ConnectionRefused, 0},
		{"all refused", &Exit{Allow: Allow{Loopback: true}}, "x.example", closed, answers{addrs: addrs("::1", "127.0.0.1")}, socks.ConnectionRefused, 1},
		{"loopback", &Exit{}, "127.0.0.1", closed, answers{}, socks.NotAllowed, 0},
		{"odd spelling", &Exit{Allow: Allow{Loopback: true}}, "0x7f.1", closed, answers{addrs: addrs("127.0.0.1")}, socks.NotAllowed, 0},
		{"all denied", &Exit{}, "x.example", closed, answers{addrs: addrs("::1", "10.0.0.1")}, socks.NotAllowed, 1},
		{"own listener", &Exit{Allow: Allow{Loopback: true}, Own: own}, "127.0.0.1", closed, answers{}, socks.NotAllowed, 0},
		{"port 0", &Exit{Allow: Allow{Loopback: true}}, "127.0.0.1", 0, answers{}, socks.AddressNotSupported, 0},
		{"no answer", &Exit{}, "x.example", 80, answers{}, socks.HostUnreachable, 1},
		{"no such name", &Exit{}, "x.example", 80, answers{err: &net.DNSError{Err: "no such host", IsNotFound: true}}, socks.HostUnreachable, 1},
		{"slow resolver", &Exit{}, "x.example", 80, answers{err: &net.DNSError{Err: "timeout", IsTimeout: true}}, socks.TimedOut, 1},
	} {
		test.exit.Resolver = &test.resolver
		conn, reply, err := test.exit.Connect(t.Context(), connectTo(t, test.host, test.port))
		if err == nil {
			conn.Close()
		}
		if socks.CodeOf(err) != test.want || reply.Code != test.want || test.resolver.asked != test.asked {
			t.Errorf("%s: %v with code %v in the reply, after %d look-ups; want code %v after %d",
				test.name, err, reply.Code, test.resolver.asked, test.want, test.asked)
		}
	}
}

// rebinding answers each time with something else: now one address, now the
// other, now both in either order.
type rebinding struct {
	good, bad netip.Addr
	asked     int
}

func (r *rebinding) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	r.asked++
	return [][]netip.Addr{{r.good}, {r.bad}, {r.good, r.bad}, {r.bad, r.good}, {r.bad, r.bad}}[r.asked%5], nil
}

func TestRebindingReachesNothingThatIsDenied(t *testing.T) {
	good, fromGood := echo(t, "127.0.0.2:0")
	secret, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), good).String())
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	resolver := &rebinding{good: netip.MustParseAddr("127.0.0.2"), bad: netip.MustParseAddr("127.0.0.1")}
	e := &Exit{
		Allow:    Allow{Loopback: true},
		Own:      []netip.AddrPort{secret.Addr().(*net.TCPAddr).AddrPort()},
		Resolver: resolver,
	}
	request := connectTo(t, "rebinding.example", good)
	reached := 0
	for i := range 10_000 {
		conn, _, err := e.Connect(t.Context(), request)
		if err != nil {
			if socks.CodeOf(err) != socks.NotAllowed {
				t.Fatal(err)
			}
		} else {
			reached++
			<-fromGood
			conn.Reset() // leaves no port in TIME_WAIT
		}
		if resolver.asked != i+1 {
			t.Fatalf("%d look-ups for %d requests", resolver.asked, i+1)
		}
	}
	if reached != 6_000 {
		t.Errorf("%d requests have reached the allowed address, want 6000", reached)
	}
	// A connection would have been there before Connect returned.
	if err := secret.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if c, err := secret.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("somebody came to the denied address: %v, %v", c, err)
	}
}

func TestDialJudgesTheVeryAddressAgain(t *testing.T) {
	port, from := echo(t, "127.0.0.1:0")
	conn, err := (&Exit{}).dial(t.Context(), socks.Request{}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), wishes{})
	if err == nil {
		conn.Close()
	}
	if socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("dialled past the judge: %v", err)
	}
	if len(from) != 0 {
		t.Error("the target was reached")
	}
}

func TestConnectGivesUpWhenToldTo(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout time.Duration
		cancel  bool
		want    socks.Code
	}{
		{"its own limit", 50 * time.Millisecond, false, socks.TimedOut},
		{"the caller", time.Minute, true, socks.GeneralFailure},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if test.cancel {
			time.AfterFunc(50*time.Millisecond, cancel)
		}
		e := &Exit{Resolver: stuck{}, Timeout: test.timeout}
		_, _, err := e.Connect(ctx, connectTo(t, "x.example", 80))
		cancel()
		if err == nil || socks.CodeOf(err) != test.want {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// stuck is a resolver that never answers.
type stuck struct{}

func (stuck) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestShortagesAreGeneralFailures(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS} {
		err := mostTelling([]error{&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", errno)}})
		if socks.CodeOf(err) != socks.GeneralFailure {
			t.Errorf("%v has code %v", errno, socks.CodeOf(err))
		}
	}
}

func TestANameWithManyAddressesIsNoFlood(t *testing.T) {
	var many []netip.Addr
	for i := range 1000 {
		many = append(many, netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)))
	}
	e := &Exit{Resolver: &answers{addrs: append(many, many...)}}
	targets, err := e.targets(t.Context(), connectTo(t, "x.example", 80))
	if err != nil || len(targets) != maxTargets {
		t.Errorf("%d targets, %v", len(targets), err)
	}
}
