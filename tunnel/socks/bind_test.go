package socks

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// harbour is a relay whose ports a test opens and lets peers come to.
type harbour struct {
	Unserved
	bound  netip.AddrPort
	asked  chan Request
	peers  chan any // a relay.Conn that has come, or an error
	closed chan struct{}
	once   sync.Once
}

func newHarbour() *harbour {
	return &harbour{
		bound:  netip.MustParseAddrPort("203.0.113.1:40000"),
		asked:  make(chan Request, 1),
		peers:  make(chan any, 1),
		closed: make(chan struct{}),
	}
}

func (h *harbour) Bind(_ context.Context, r Request) (Binding, Reply, error) {
	h.asked <- r
	return h, Reply{Bound: h.bound}, nil
}

func (h *harbour) Accept(ctx context.Context) (relay.Conn, Reply, error) {
	select {
	case p := <-h.peers:
		if err, ok := p.(error); ok {
			return nil, Reply{}, err
		}
		return p.(relay.Conn), Reply{Bound: netip.MustParseAddrPort("192.0.2.10:20")}, nil
	case <-ctx.Done():
		return nil, Reply{}, context.Cause(ctx)
	}
}

func (h *harbour) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// comes lets a peer come, and gives its end.
func (h *harbour) comes(t testing.TB) *net.TCPConn {
	t.Helper()
	ln := listen(t, "127.0.0.1:0")
	far := dial(t, ln.Addr().String())
	h.peers <- relay.TCP(accept(t, ln))
	return far
}

// bindings are a BIND for 192.0.2.10:21 in each dialect, with what the door answers.
var bindings = map[string]struct {
	dialect                            Dialect
	request, first, second, late, none string
}{
	"SOCKS 4": {
		SOCKS4, "\x04\x02\x00\x15\xc0\x00\x02\x0a\x00",
		"\x00\x5a\x9c\x40\xcb\x00\x71\x01", "\x00\x5a\x00\x14\xc0\x00\x02\x0a",
		"\x00\x5b\x00\x00\x00\x00\x00\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00",
	},
	"SOCKS 4a": {
		SOCKS4a, "\x04\x02\x00\x15\x00\x00\x00\x01\x00192.0.2.10\x00",
		"\x00\x5a\x9c\x40\xcb\x00\x71\x01", "\x00\x5a\x00\x14\xc0\x00\x02\x0a",
		"\x00\x5b\x00\x00\x00\x00\x00\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00",
	},
	"SOCKS 5": {
		SOCKS5, "\x05\x01\x00\x05\x02\x00\x01\xc0\x00\x02\x0a\x00\x15",
		"\x05\x00\x05\x00\x00\x01\xcb\x00\x71\x01\x9c\x40", "\x05\x00\x00\x01\xc0\x00\x02\x0a\x00\x14",
		"\x05\x06\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00",
	},
	"SOCKS 6": {
		SOCKS6, "\x06\x02\x00\x00\x00\x15\x00\x01\x00\x00\x00\x00",
		"\x06\x00\x00\x00" + "\x06\x00\x00\x00\x9c\x40\x00\x01\xcb\x00\x71\x01", "\x06\x00\x00\x00\x00\x14\x00\x01\xc0\x00\x02\x0a",
		"\x06\x09\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00", "\x06\x02\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00",
	},
}

// bound asks for a port and reads the first answer.
func bound(t testing.TB, h *harbour, dialect string) *net.TCPConn {
	t.Helper()
	b := bindings[dialect]
	app := dial(t, openDoor(t, &Door{Relay: h}))
	send(t, app, b.request)
	expect(t, app, b.first)
	r := receive(t, h.asked)
	want := Addr{IP: netip.MustParseAddr("192.0.2.10"), Port: 21}
	if b.dialect == SOCKS6 {
		want.IP = netip.IPv4Unspecified()
	}
	if r.Command != Bind || r.Dialect != b.dialect || r.Dst != want || r.Source.String() != app.LocalAddr().String() {
		t.Errorf("%s: the relay is asked for %+v", dialect, r)
	}
	return app
}

func TestAppIsConnectedWithThePeerWhoComes(t *testing.T) {
	for dialect, b := range bindings {
		h := newHarbour()
		app := bound(t, h, dialect)
		send(t, app, "early")
		far := h.comes(t)
		send(t, far, "from the peer")
		far.CloseWrite()
		expect(t, app, b.second+"from the peer")
		expectEnd(t, app)
		send(t, app, " and late")
		app.CloseWrite()
		expect(t, far, "early and late")
		expectEnd(t, far)
		receive(t, h.closed)
	}
}

func TestResetsPassBetweenAppAndPeer(t *testing.T) {
	for _, appResets := range []bool{true, false} {
		h := newHarbour()
		app := bound(t, h, "SOCKS 5")
		far := h.comes(t)
		expect(t, app, bindings["SOCKS 5"].second)
		near, other := app, far
		if !appResets {
			near, other = far, app
		}
		near.SetLinger(0)
		near.Close()
		expectReset(t, other)
	}
}

func TestAppHearsThatNoPeerHasCome(t *testing.T) {
	for dialect, b := range bindings {
		for code, want := range map[Code]string{TimedOut: b.late, NotAllowed: b.none} {
			h := newHarbour()
			app := bound(t, h, dialect)
			h.peers <- error(&Error{code, errors.New("nobody")})
			expect(t, app, want)
			expectEnd(t, app)
			receive(t, h.closed)
		}
	}
}

func TestPortClosesWhenItsAppGoes(t *testing.T) {
	for dialect := range bindings {
		for _, reset := range []bool{true, false} {
			h := newHarbour()
			app := bound(t, h, dialect)
			if reset {
				app.SetLinger(0)
			}
			began := time.Now()
			app.Close()
			receive(t, h.closed)
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s: it took %v", dialect, took)
			}
		}
	}
}

func TestPeerIsResetIfTheAppGoesAsHeComes(t *testing.T) {
	h := newHarbour()
	app := bound(t, h, "SOCKS 5")
	ln := listen(t, "127.0.0.1:0")
	far := dial(t, ln.Addr().String())
	near := relay.TCP(accept(t, ln))
	app.Close()
	h.peers <- near // either the app's end or the peer is seen first
	select {
	case <-h.closed:
	case <-time.After(patience):
		t.Fatal("the port stays open")
	}
	select {
	case <-h.peers: // nobody has taken it
		near.Reset()
	default:
	}
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the peer reads something")
	}
}

func TestPortClosesWithTheDoor(t *testing.T) {
	h := newHarbour()
	ln := listen(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- (&Door{Relay: h, Admission: Admission{Anyone: true}}).Serve(ctx, ln) }()
	app := dial(t, ln.Addr().String())
	send(t, app, bindings["SOCKS 5"].request)
	expect(t, app, bindings["SOCKS 5"].first)
	cancel()
	receive(t, h.closed)
	if err := receive(t, served); err != nil {
		t.Error(err)
	}
}

// TestSOCKS4HasNoWordsForIPv6 wants such a port to be closed again.
func TestSOCKS4HasNoWordsForIPv6(t *testing.T) {
	h := newHarbour()
	h.bound = netip.MustParseAddrPort("[2001:db8::1]:40000")
	app := dial(t, openDoor(t, &Door{Relay: h}))
	send(t, app, bindings["SOCKS 4a"].request)
	expect(t, app, bindings["SOCKS 4a"].none)
	expectEnd(t, app)
	receive(t, h.closed)
}

func TestBacklogOfSOCKS6IsNotGranted(t *testing.T) {
	h := newHarbour()
	app := dial(t, openDoor(t, &Door{Relay: h}))
	send(t, app, "\x06\x02\x00\x08\x00\x15\x00\x01\xc0\x00\x02\x0a"+"\x00\x01\x00\x08\x84\x03\x00\x04")
	expect(t, app, bindings["SOCKS 6"].first)
	if r := receive(t, h.asked); r.Backlog() != 0 || r.Dst.String() != "0.0.0.0:21" {
		t.Errorf("the relay is asked for %+v", r)
	}
}
