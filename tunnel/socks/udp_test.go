package socks

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// echoes is a relay whose associations send everything back.
type echoes struct {
	Unserved
	fails   error
	mute    bool // nothing comes back
	begun   chan *echo
	asked   chan Request
	proceed chan struct{} // nil, or holds up requests
	deaf    bool          // does not notice that the app has gone
}

func newEchoes() *echoes {
	return &echoes{begun: make(chan *echo, 8192), asked: make(chan Request, 8192)}
}

func (e *echoes) Associate(ctx context.Context, r Request, in Inbox) (Association, Reply, error) {
	e.asked <- r
	if e.proceed != nil {
		gone := ctx.Done()
		if e.deaf {
			gone = nil
		}
		select {
		case <-e.proceed:
		case <-gone:
			return nil, Reply{}, ctx.Err()
		}
	}
	if e.fails != nil {
		return nil, Reply{}, e.fails
	}
	a := &echo{in: in, mute: e.mute, sent: make(chan Datagram, 4096), over: make(chan struct{}), closed: make(chan struct{})}
	e.begun <- a
	return a, Reply{Bound: netip.MustParseAddrPort("203.0.113.200:5004")}, nil
}

// echo is an association that sends everything back.
type echo struct {
	in     Inbox
	mute   bool
	sent   chan Datagram
	over   chan struct{} // closed by a test
	closed chan struct{}
	once   sync.Once

	mu sync.Mutex
}

func (e *echo) Send(batch []Datagram) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var back []Datagram
	for _, d := range batch {
		d.Payload = slices.Clone(d.Payload)
		select {
		case e.sent <- d:
		default:
		}
		if !d.Addr.IP.IsValid() {
			d.Addr = Addr{IP: netip.MustParseAddr("192.0.2.99"), Port: d.Addr.Port} // as if it were resolved
		}
		back = append(back, d)
	}
	if !e.mute {
		e.in.Deliver(back)
	}
}

func (e *echo) deliver(batch ...Datagram) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.in.Deliver(batch)
}

// shrink drops what an association would not have if it were a real one.
func (e *echo) shrink() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent = nil
}

func (e *echo) Done() <-chan struct{} { return e.over }
func (e *echo) Close() error          { e.once.Do(func() { close(e.closed) }); return nil }

// associated is an app with an association.
type associated struct {
	control net.Conn
	relay   netip.AddrPort // where it is told to send to
	udp     *net.UDPConn
	echo    *echo
}

// associate asks a door for an association, in the words of a request from its
// address type on.
func associate(t testing.TB, door string, e *echoes, from string) *associated {
	t.Helper()
	a := &associated{control: dial(t, door)}
	a.begin(t, e, from)
	return a
}

func (a *associated) begin(t testing.TB, e *echoes, from string) {
	t.Helper()
	send(t, a.control, "\x05\x01\x00\x05\x03\x00"+from)
	expect(t, a.control, "\x05\x00")
	a.relay = reply5(t, a.control)
	own := a.relay.Addr()
	if c, ok := a.control.LocalAddr().(*net.TCPAddr); ok {
		own = c.AddrPort().Addr()
	}
	a.udp = listenUDP(t, own, 0)
	a.echo = receive(t, e.begun)
	receive(t, e.asked)
}

// reply5 reads a good reply.
func reply5(t testing.TB, c io.Reader) netip.AddrPort {
	t.Helper()
	expect(t, c, "\x05\x00\x00")
	b := make([]byte, 1, 19)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	size := map[byte]int{typeIPv4in5: 6, typeIPv6in5: 18}[b[0]]
	if _, err := io.ReadFull(c, b[1:1+size]); err != nil {
		t.Fatal(err)
	}
	a, rest, err := cutAddr5(b[0], b[1:1+size])
	if err != nil || len(rest) > 0 {
		t.Fatalf("%x, %v", b, err)
	}
	return netip.AddrPortFrom(a.IP, a.Port)
}

const anySource = "\x01\x00\x00\x00\x00\x00\x00"

func listenUDP(t testing.TB, ip netip.Addr, port uint16) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadBuffer(1 << 20)
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// packet5 gives a datagram in a packet.
func packet5(to, payload string) string {
	return string(appendUDP5(nil, netip.MustParseAddrPort(to))) + payload
}

func sendTo(t testing.TB, c *net.UDPConn, to netip.AddrPort, packet string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(packet), to); err != nil {
		t.Fatal(err)
	}
}

// expectPacket reads a packet.
func expectPacket(t testing.TB, c *net.UDPConn, want string) {
	t.Helper()
	b := make([]byte, packetSpace)
	n, _, err := c.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != want {
		t.Fatalf("read %.100q with %d bytes (%v), want %.100q with %d", b[:n], n, err, want, len(want))
	}
}

// echoed sends a packet to a peer and waits for it to come back.
func (a *associated) echoed(t testing.TB, payload string) {
	t.Helper()
	sendTo(t, a.udp, a.relay, packet5("192.0.2.53:53", payload))
	expectPacket(t, a.udp, packet5("192.0.2.53:53", payload))
}

func TestDatagramsGoBothWays(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "127.0.0.2:0", "[::1]:0"} {
		e := newEchoes()
		ln, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		d := &Door{Relay: e}
		d.Admission.Anyone = runtime.GOOS != "linux"
		serve(t, d, ln)
		a := associate(t, ln.Addr().String(), e, anySource)
		if door := unmapped(ln.Addr().(*net.TCPAddr).AddrPort()); a.relay.Addr() != door.Addr() {
			t.Errorf("the app is told to send to %v, and has come to %v", a.relay, door)
		}
		for _, peer := range []string{"192.0.2.53:53", "[2001:db8::53]:5353", "192.0.2.54:1"} {
			sendTo(t, a.udp, a.relay, packet5(peer, "hello "+peer))
			expectPacket(t, a.udp, packet5(peer, "hello "+peer))
			if d := receive(t, a.echo.sent); d.Addr.String() != peer {
				t.Errorf("sent to %v, want %s", d.Addr, peer)
			}
		}
		sendTo(t, a.udp, a.relay, "\x00\x00\x00\x03\x0bexample.com\x00\x35query")
		expectPacket(t, a.udp, packet5("192.0.2.99:53", "query"))
		if d := receive(t, a.echo.sent); d.Addr != there {
			t.Errorf("sent to %v, want %v", d.Addr, there)
		}
		a.echoed(t, "")
		a.echoed(t, strings.Repeat("x", maxUDP-10))
	}
}

func TestPySocksGetsItsDatagrams(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, "\x03\x010\x00\x00") // the name "0"
	a.echoed(t, "hello")
}

func TestRequestsForAssociationsTellWhoAsks(t *testing.T) {
	e := newEchoes()
	c := dial(t, openDoor(t, &Door{Relay: e, Admission: Admission{Authenticate: Password("fred", "secret")}}))
	send(t, c, "\x05\x01\x02\x01\x04fred\x06secret\x05\x03\x00"+anySource)
	expect(t, c, "\x05\x02\x01\x00")
	reply5(t, c)
	r := receive(t, e.asked)
	if r.Command != Associate || r.Dialect != SOCKS5 || r.User != "fred" || r.Source != c.LocalAddr().(*net.TCPAddr).AddrPort() {
		t.Errorf("asked for %+v", r)
	}
}

func TestFragmentsComeOutWhole(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
	sendTo(t, a.udp, a.relay, string(unhex(t, "000001 01 c0000235 0035 4142")))
	sendTo(t, a.udp, a.relay, string(unhex(t, "000082 01 c0000235 0035 4344")))
	expectPacket(t, a.udp, packet5("192.0.2.53:53", "ABCD"))
}

func TestUnfinishedDatagramsAreForgottenInTime(t *testing.T) {
	socket := &udpSocket{}
	u := &udp5{socket: socket, fragments: reassembly{desk: new(udpDesk)}}
	from := netip.MustParseAddrPort("127.0.0.1:5004")
	socket.settle(from)
	now := time.Unix(1000, 0)
	u.unpack(nil, now, from, unhex(t, "000001 01 c0000235 0035 4142"))
	until := u.forget(now)
	if until != now.Add(fragmentTimeout) || u.fragments.desk.unfinished.Load() != 2 {
		t.Errorf("%d bytes are kept until %v", u.fragments.desk.unfinished.Load(), until)
	}
	if again := u.forget(until); !again.IsZero() || u.fragments.desk.unfinished.Load() != 0 {
		t.Errorf("%d bytes are kept until %v", u.fragments.desk.unfinished.Load(), again)
	}
}

// impatient is a dialect that has something to forget soon after its first packet.
type impatient struct {
	taken  chan string
	begun  chan time.Time // tells when
	forgot bool
}

func (d *impatient) unpack(batch []Datagram, _ time.Time, _ netip.AddrPort, packet []byte) []Datagram {
	d.taken <- string(packet)
	return batch
}

func (d *impatient) forget(now time.Time) time.Time {
	if d.forgot {
		return time.Time{}
	}
	d.forgot = true
	until := now.Add(100 * time.Millisecond)
	d.begun <- until
	return until
}

func (d *impatient) drop() {}

func TestAssociationsOutliveWhatTheyForgetWhileTheyWaitToRead(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	s, err := newUDPSocket(loopback)
	if err != nil {
		t.Fatal(err)
	}
	s.desk, s.host = new(udpDesk), loopback
	d := &impatient{taken: make(chan string, 2), begun: make(chan time.Time, 1)}
	ended := make(chan error, 1)
	go func() { ended <- s.receive(d, nil) }()
	own := listenUDP(t, loopback, 0)
	sendTo(t, own, s.local, "first")
	receive(t, d.taken)
	until := receive(t, d.begun)
	for range maxReading { // the others all read
		s.desk.turns() <- struct{}{}
	}
	sendTo(t, own, s.local, "second")
	time.Sleep(time.Until(until))
	for range maxReading {
		<-s.desk.turns()
	}
	select {
	case packet := <-d.taken:
		if packet != "second" {
			t.Errorf("took %q", packet)
		}
		s.conn.Close()
		<-ended
	case err := <-ended:
		t.Errorf("the association is over: %v", err)
		s.conn.Close()
	}
}

func TestForeignSendersAreNotRelayed(t *testing.T) {
	for name, from := range map[string]string{"first": anySource, "named": ""} {
		t.Run(name, func(t *testing.T) {
			e := newEchoes()
			door := openDoor(t, &Door{Relay: e})
			own := listenUDP(t, netip.MustParseAddr("127.0.0.1"), 0)
			if from == "" {
				from = string(appendAddr5(nil, own.LocalAddr().(*net.UDPAddr).AddrPort()))
			}
			a := associate(t, door, e, from)
			a.udp = own
			elsewhere := listenUDP(t, netip.MustParseAddr("127.0.0.3"), 0)
			for range 100 {
				sendTo(t, elsewhere, a.relay, packet5("192.0.2.53:53", "foreign"))
			}
			if name == "named" { // who comes first is nobody then, either
				sendTo(t, listenUDP(t, a.relay.Addr(), 0), a.relay, packet5("192.0.2.53:53", "foreign"))
			}
			a.echoed(t, "own")
			neighbour := listenUDP(t, netip.MustParseAddr("127.0.0.1"), 0)
			for range 100 {
				sendTo(t, neighbour, a.relay, packet5("192.0.2.53:53", "foreign"))
				sendTo(t, elsewhere, a.relay, packet5("192.0.2.53:53", "foreign"))
			}
			a.echoed(t, "own again")
			for _, want := range []string{"own", "own again"} {
				if d := receive(t, a.echo.sent); string(d.Payload) != want {
					t.Errorf("relayed %q, want %q", d.Payload, want)
				}
			}
			if n := len(a.echo.sent); n > 0 {
				t.Errorf("%d more datagrams were relayed", n)
			}
		})
	}
}

func TestNonsenseDoesNotMakeASenderTheApp(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
	stranger := listenUDP(t, a.relay.Addr(), 0)
	for _, nonsense := range []string{"", "x", "\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00", "\x00\x00\x80\x01\x01\x02\x03\x04\x00\x35"} {
		sendTo(t, stranger, a.relay, nonsense)
	}
	a.echoed(t, "hello")
}

func TestWhatAnAppCannotKnowOfItselfIsAHint(t *testing.T) {
	for hint, want := range map[string]string{
		"192.0.2.1:5004":        "192.0.2.1:5004",
		"192.0.2.1:0":           "invalid AddrPort",
		"10.0.0.1:5004":         "invalid AddrPort", // inside a NAT
		"0.0.0.0:5004":          "invalid AddrPort", // the same
		"[::ffff:c000:201]:500": "192.0.2.1:500",
		"example.com:5004":      "invalid AddrPort",
	} {
		a, err := ParseAddr(hint)
		if err != nil {
			t.Fatal(err)
		}
		if got := namedSource(a, netip.MustParseAddr("192.0.2.1")).String(); got != want {
			t.Errorf("hint %s: %s, want %s", hint, got, want)
		}
	}
	for _, hint := range []string{"0.0.0.0:5004", "[::]:5004", "127.0.0.1:5004"} {
		a, err := ParseAddr(hint)
		if err != nil {
			t.Fatal(err)
		}
		if got := namedSource(a, netip.MustParseAddr("127.0.0.1")).String(); got != "127.0.0.1:5004" {
			t.Errorf("hint %s: %s", hint, got)
		}
	}
}

func TestNothingIsDeliveredBeforeTheAppIsKnown(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
	a.echo.deliver(Datagram{here, []byte("early")})
	a.echoed(t, "hello") // and "early" has not come before
}

func TestAppsThatNameTheirPortNeedNotSendFirst(t *testing.T) {
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e})
	own := listenUDP(t, netip.MustParseAddr("127.0.0.1"), 0)
	a := associate(t, door, e, string(appendAddr5(nil, own.LocalAddr().(*net.UDPAddr).AddrPort())))
	a.echo.deliver(Datagram{here, []byte("early")})
	expectPacket(t, own, packet5("192.0.2.53:53", "early"))
}

func TestManyDatagramsAreDeliveredInOrder(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
	a.echoed(t, "hello")
	var batch []Datagram
	for i := range 3*packetsOut + 1 {
		batch = append(batch, Datagram{here, []byte{byte(i)}})
	}
	batch = slices.Insert(batch, 5, Datagram{here, make([]byte, maxUDP)}, // too long with a header
		Datagram{here, make([]byte, 1<<17)}, Datagram{there, []byte("a name")})
	a.echo.deliver(batch...)
	for i := range 3*packetsOut + 1 {
		expectPacket(t, a.udp, packet5("192.0.2.53:53", string([]byte{byte(i)})))
	}
	large := Datagram{here, make([]byte, 30000)}
	a.echo.deliver(large, large, large, large, large) // more than there is room for at once
	for range 5 {
		expectPacket(t, a.udp, packet5("192.0.2.53:53", string(large.Payload)))
	}
}

func TestAssociationsEndWithTheirConnection(t *testing.T) {
	for name, end := range map[string]func(c *net.TCPConn){
		"close":      func(c *net.TCPConn) { c.Close() },
		"half-close": func(c *net.TCPConn) { c.CloseWrite() },
		"reset":      func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEchoes()
			a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
			a.echoed(t, "hello")
			ended := time.Now()
			end(a.control.(*net.TCPConn))
			receive(t, a.echo.closed)
			if d := time.Since(ended); d > time.Second {
				t.Errorf("the association has lasted %v longer", d)
			}
			if c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a.relay)); err != nil {
				t.Errorf("the port is still in use: %v", err)
			} else {
				c.Close()
			}
			a.echo.deliver(Datagram{here, []byte("late")}) // does no harm
		})
	}
}

func TestConnectionsEndWithTheirAssociation(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
	close(a.echo.over)
	expectEnd(t, a.control)
	receive(t, a.echo.closed)
}

func TestWhatAnAppSaysBesideItsAssociationMeansNothing(t *testing.T) {
	e := newEchoes()
	a := &associated{control: dial(t, openDoor(t, &Door{Relay: e}))}
	a.begin(t, e, anySource+"\x05\x01\x00")
	send(t, a.control, strings.Repeat("x", dismissBytes/2))
	a.echoed(t, "hello")
	for range 8 { // but there is an end to it
		if _, err := io.WriteString(a.control, strings.Repeat("x", dismissBytes/8)); err != nil {
			break
		}
	}
	receive(t, a.echo.closed)
}

// answered gives the code of a door's reply to a request for an association.
func answered(t testing.TB, c net.Conn) Code {
	t.Helper()
	send(t, c, "\x05\x01\x00\x05\x03\x00"+anySource)
	var b [12]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Fatal(err)
	}
	return Code(b[3])
}

func TestRefusedAssociationsLeaveNothing(t *testing.T) {
	e := newEchoes()
	e.fails = NotAllowed
	door := openDoor(t, &Door{Relay: e, UDP: UDP{MaxAssociations: 4}})
	for range 10 { // more than there may be at once
		c := dial(t, door)
		if code := answered(t, c); code != NotAllowed {
			t.Fatalf("refused with %v", code)
		}
		expectEnd(t, c)
	}
}

func TestDoorsWithoutUDPSayThatTheyDoNotKnowTheCommand(t *testing.T) {
	if code := answered(t, dial(t, openDoor(t, &Door{Relay: newEchoes(), UDP: UDP{Off: true}}))); code != CommandNotSupported {
		t.Errorf("refused with %v", code)
	}
}

func TestAppsThatGoWhileTheyAskLeaveNothing(t *testing.T) {
	for name, granted := range map[string]bool{"granted": true, "given up": false} {
		t.Run(name, func(t *testing.T) {
			e := newEchoes()
			e.proceed, e.deaf = make(chan struct{}), granted
			door := openDoor(t, &Door{Relay: e, UDP: UDP{MaxAssociations: 4}})
			c := dial(t, door)
			send(t, c, "\x05\x01\x00\x05\x03\x00"+anySource)
			receive(t, e.asked)
			c.Close()
			if granted {
				close(e.proceed)
				receive(t, receive(t, e.begun).closed)
				return
			}
			for code := GeneralFailure; code != Succeeded; { // until the first one has been counted out
				next := dial(t, door)
				send(t, next, "\x05\x01\x00\x05\x03\x00"+anySource)
				select {
				case <-e.asked:
					return
				case <-time.After(10 * time.Millisecond):
				}
				next.Close()
			}
		})
	}
}

func TestAssociationsHaveLimits(t *testing.T) {
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e, UDP: UDP{MaxAssociations: 8}})
	first := associate(t, door, e, anySource)
	associate(t, door, e, anySource)
	if code := answered(t, dial(t, door)); code != GeneralFailure {
		t.Errorf("one more than a host may have: %v", code)
	}
	first.control.Close()
	receive(t, first.echo.closed)
	associate(t, door, e, anySource)
}

func TestAListenersAssociationsAreCounted(t *testing.T) {
	s := &serving{Door: Door{UDP: UDP{MaxAssociations: 8}}}
	var taken []*place
	for _, step := range []struct {
		host string
		ok   bool
	}{
		{"192.0.2.1", true},
		{"192.0.2.1", true},
		{"192.0.2.1", false}, // more than a host may have
		{"2001:db8::1", true},
		{"2001:db8::2", true},
		{"2001:db8::3", false}, // the same network, which is one host
		{"2001:db8:0:1::1", true},
		{"192.0.2.2", true},
		{"192.0.2.3", true},
		{"192.0.2.4", true},
		{"192.0.2.5", false}, // more than the listener may have
	} {
		p, err := s.takePlace(netip.MustParseAddr(step.host))
		if (err == nil) != step.ok {
			t.Errorf("one more of %s: %v", step.host, err)
		}
		taken = append(taken, p)
	}
	for _, p := range taken {
		p.leave()
	}
	if n := &s.udp.associations; n.count != 0 || len(n.hosts) != 0 {
		t.Errorf("%d associations of %v are left", n.count, n.hosts)
	}
}

func TestAppsFromElsewhereAreToldTheAdvertisedAddress(t *testing.T) {
	outside := netip.MustParseAddr("203.0.113.1")
	s := &serving{Door: Door{UDP: UDP{Advertise: outside}}}
	s.Admission.Anyone = true
	for source, told := range map[string]string{"192.0.2.1:5000": "203.0.113.1", "127.0.0.1:5000": "127.0.0.1"} {
		a := &app{door: s, conn: located{}, source: netip.MustParseAddrPort(source)}
		socket, err := a.openUDP(Addr{})
		if err != nil {
			t.Fatal(err)
		}
		if socket.told.Addr().String() != told || socket.told.Port() != socket.local.Port() {
			t.Errorf("an app at %s is told to send to %v, and the port is %v", source, socket.told, socket.local)
		}
		socket.close()
	}
}

// located is a connection that has come to an address.
type located struct{ duplex }

func (located) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1080} }
func (located) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5000} }

func TestAppsAtUnixSocketsSendOverLoopback(t *testing.T) {
	path := filepath.Join(t.TempDir(), "door")
	ln, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	e := newEchoes()
	serve(t, &Door{Relay: e}, ln)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	own := listenUDP(t, netip.MustParseAddr("127.0.0.1"), 0)
	a := &associated{control: c}
	a.begin(t, e, string(appendAddr5(nil, own.LocalAddr().(*net.UDPAddr).AddrPort())))
	a.udp = own
	a.echoed(t, "hello")
}

func TestAssociationsEndWhenTheDoorCloses(t *testing.T) {
	e := newEchoes()
	ctx, cancel := context.WithCancel(t.Context())
	ln := listen(t, "127.0.0.1:0")
	served := make(chan error, 1)
	go func() {
		served <- (&Door{Relay: e, Admission: Admission{Anyone: true}}).Serve(ctx, ln)
	}()
	a := associate(t, ln.Addr().String(), e, anySource)
	cancel()
	receive(t, a.echo.closed)
	if err := receive(t, served); err != nil {
		t.Error(err)
	}
	if _, err := a.control.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the app's connection ends with %v, want a reset", err)
	}
}

func TestPeersCostAnAssociationNoGoroutine(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
	a.echoed(t, "hello")
	before := runtime.NumGoroutine()
	for i := range 1000 {
		peer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 53).String()
		sendTo(t, a.udp, a.relay, packet5(peer, "hello"))
		expectPacket(t, a.udp, packet5(peer, "hello"))
	}
	if after := runtime.NumGoroutine(); after > before+10 { // of others a few may come and go
		t.Errorf("%d goroutines, and %d before there were 1,000 peers", after, before)
	}
}

// TestIdleAssociationsAreSmall counts what both ends of 1,000 associations take, of
// which the apps' is about as much as the doors' TCP connections.
func TestIdleAssociationsAreSmall(t *testing.T) {
	const many = 1000
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e})
	associate(t, door, e, anySource).echoed(t, "hello") // what there is once only
	inUse := func() (bytes uint64, goroutines int) {
		var m runtime.MemStats
		for range 3 { // pools are emptied in two steps
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse, runtime.NumGoroutine()
	}
	bytesBefore, goroutinesBefore := inUse()
	for range many {
		c := dial(t, door)
		send(t, c, "\x05\x01\x00\x05\x03\x00"+anySource)
		expect(t, c, "\x05\x00")
		relay := reply5(t, c)
		own := listenUDP(t, relay.Addr(), 0)
		sendTo(t, own, relay, packet5("192.0.2.53:53", "hello"))
		expectPacket(t, own, packet5("192.0.2.53:53", "hello"))
		receive(t, e.begun).shrink()
		receive(t, e.asked)
	}
	bytesAfter, goroutinesAfter := inUse()
	each, goroutines := (int64(bytesAfter)-int64(bytesBefore))/many, goroutinesAfter-goroutinesBefore
	t.Logf("an idle association takes %d bytes, with its app, and %.2f goroutines", each, float64(goroutines)/many)
	if each > 64<<10 {
		t.Errorf("an idle association takes %d bytes", each)
	}
	if goroutines > 3*many+10 {
		t.Errorf("%d associations have %d goroutines", many, goroutines)
	}
}

func TestDatagramsAreProtectedAsTheirConnectionIs(t *testing.T) {
	for _, level := range []GSSLevel{GSSLevelIntegrity, GSSLevelConfidentiality} {
		far, near := gssPair(t, level)
		s := (&Door{Relay: newEchoes(), Admission: Admission{Anyone: true}}).serving()
		a := &app{door: s, conn: near, in: bufio.NewReader(near), source: unmapped(near.RemoteAddr().(*net.TCPAddr).AddrPort())}
		e := s.Relay.(*echoes)
		ended := make(chan error, 1)
		go func() {
			ended <- a.associate(t.Context(), &guest{relay: e, source: a.source}, Request{Command: Associate, Dialect: SOCKS5}, answer5)
		}()
		relay := reply5(t, far)
		own := listenUDP(t, relay.Addr(), 0)
		mine := &GSSChannel{Level: level, context: &paperGSS{}}
		b := make([]byte, packetSpace)
		for _, payload := range []string{"hello", "hello", strings.Repeat("x", 60000)} {
			packet, err := mine.AppendDatagram(nil, []byte(packet5("192.0.2.53:53", payload)))
			if err != nil {
				t.Fatal(err)
			}
			sendTo(t, own, relay, packet5("192.0.2.53:53", "in the clear"))
			sendTo(t, own, relay, string(packet))
			sendTo(t, own, relay, string(packet)) // again
			n, _, err := own.ReadFromUDPAddrPort(b)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := mine.OpenDatagram(b[:n]); err != nil || string(back) != packet5("192.0.2.53:53", payload) {
				t.Errorf("level %d: %d bytes have come back (%v)", level, len(back), err)
			}
		}
		echo := receive(t, e.begun)
		if n := len(echo.sent); n != 3 {
			t.Errorf("level %d: %d datagrams were relayed, want 3", level, n)
		}
		var batch []Datagram
		for i := range packetsOut + 8 {
			batch = append(batch, Datagram{here, bytes.Repeat([]byte{byte(i)}, 1200)})
		}
		echo.deliver(batch...)
		for _, d := range batch {
			n, _, err := own.ReadFromUDPAddrPort(b)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := mine.OpenDatagram(b[:n]); err != nil || string(back) != packet5("192.0.2.53:53", string(d.Payload)) {
				t.Fatalf("level %d: %d bytes have come (%v)", level, len(back), err)
			}
		}
		far.Close()
		receive(t, ended)
	}
}

func TestRequestsForAssociationsAreReadAlikeHoweverTheyAreSplit(t *testing.T) {
	e := newEchoes()
	door := openDoor(t, &Door{Relay: e, Admission: Admission{Authenticate: Password("fred", "secret")}})
	for _, request := range []string{
		"05 03 00 01 00000000 0000", "05 03 00 03 01 30 0000", "05 03 00 04 00000000000000000000000000000000 0000",
	} {
		all := "\x05\x01\x02\x01\x04fred\x06secret" + string(unhex(t, request))
		for n := range all { // cut short, which asks for nothing
			c := dial(t, door)
			send(t, c, all[:n])
			c.CloseWrite()
			if answer, err := io.ReadAll(c); err != nil || len(answer) > 4 {
				t.Errorf("%x: %x, %v", all[:n], answer, err)
			}
		}
		if n := len(e.asked); n > 0 {
			t.Fatalf("%d requests have come of nothing", n)
		}
		c := dial(t, door)
		for i := range all {
			send(t, c, all[i:i+1])
		}
		expect(t, c, "\x05\x02\x01\x00")
		reply5(t, c)
		receive(t, e.asked)
	}
}
