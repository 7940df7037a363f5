package wglink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

// exit is a running server.
type exit struct {
	*Server
	key      keys.WireGuardKey
	endpoint string
	stop     func() // and wait
	guests   []Guest
}

func deviceKey(t testing.TB) keys.WireGuardKey {
	t.Helper()
	d, err := keys.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	return d.WireGuard()
}

func listen(t testing.TB) *net.UDPConn {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return udp
}

// start runs a server until the test ends.
func start(t testing.TB, admit Admit) *exit {
	t.Helper()
	return startWith(t, admit, ServerConfig{})
}

// startWith does so with a config that lacks a key.
func startWith(t testing.TB, admit Admit, cfg ServerConfig) *exit {
	t.Helper()
	identity, err := keys.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.WireGuard()
	if err != nil {
		t.Fatal(err)
	}
	udp := listen(t)
	cfg.Key = key
	e := &exit{Server: NewServer(cfg), key: key, endpoint: udp.LocalAddr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, udp, admit) }()
	e.stop = func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		served <- nil
	}
	t.Cleanup(e.stop)
	return e
}

// dialer is a device's that the server knows.
func (e *exit) dialer(t testing.TB) *Dialer {
	t.Helper()
	d := &Dialer{Endpoint: e.endpoint, ServerKey: e.key.Public(), Key: deviceKey(t), HandshakeTimeout: patience}
	if err := e.AddPeer(d.Key.Public()); err != nil {
		t.Fatal(err)
	}
	return d
}

// opening is one that genuine takes, and answer what it answers.
func opening() []byte { return bytes.Repeat([]byte{1}, OpeningSize) }
func answer() []byte  { return bytes.Repeat([]byte{2}, AnswerSize) }

// genuine admits what opening gives.
func genuine(serve func(context.Context, net.Conn)) Admit {
	return func(_ context.Context, a Arrival) ([]byte, func(context.Context, net.Conn)) {
		if !bytes.Equal(a.Opening, opening()) {
			return nil, nil
		}
		return answer(), serve
	}
}

func echo(_ context.Context, c net.Conn) { _, _ = io.Copy(c, c) }

func attach(t testing.TB, d *Dialer) net.Conn {
	t.Helper()
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, got, err := c.Attach(t.Context(), opening())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if !bytes.Equal(got, answer()) {
		t.Fatal("another answer came")
	}
	return conn
}

func TestCarrierCarries(t *testing.T) {
	conn := attach(t, start(t, genuine(echo)).dialer(t))
	want := randomBytes(1 << 20)
	go func() { _, _ = conn.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("other bytes came back, or: %v", err)
	}
}

func TestBothEndsNameTheCarrierAlike(t *testing.T) {
	arrivals := make(chan Arrival, 2)
	e := start(t, func(_ context.Context, a Arrival) ([]byte, func(context.Context, net.Conn)) {
		arrivals <- a
		return answer(), nil
	})
	d := e.dialer(t)
	var channels [][32]byte
	for range 2 {
		c, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Attach(t.Context(), opening()); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		a := <-arrivals
		if a.Channel != c.Channel() || a.Server != c.Server() || a.Device != d.Key.Public() || a.Protection != c.Protection() {
			t.Errorf("the server says %+v", a)
		}
		if !a.Remote.Addr().IsLoopback() || a.Remote.Port() == 0 {
			t.Errorf("the carrier comes from %v", a.Remote)
		}
		channels = append(channels, a.Channel)
	}
	if channels[0] == channels[1] {
		t.Error("two carriers have one name")
	}
}

func TestOpeningThatIsNotGenuineIsNotTaken(t *testing.T) {
	c, err := start(t, genuine(echo)).dialer(t).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Attach(t.Context(), make([]byte, OpeningSize)); !errors.Is(err, ErrNotTaken) {
		t.Errorf("Attach gives %v", err)
	}
}

func TestNobodyIsAnsweredWhoDoesNotKnowBothKeys(t *testing.T) {
	e := start(t, genuine(echo))
	stranger := &Dialer{Endpoint: e.endpoint, ServerKey: e.key.Public(), Key: deviceKey(t), HandshakeTimeout: 300 * time.Millisecond}
	if _, err := stranger.Dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("a stranger's Dial gives %v", err)
	}
	wrong := &Dialer{Endpoint: e.endpoint, ServerKey: deviceKey(t).Public(), Key: e.dialer(t).Key, HandshakeTimeout: 300 * time.Millisecond}
	if _, err := wrong.Dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("Dial to another server's key gives %v", err)
	}
}

func TestRemovedPeerLosesItsCarriersAtOnce(t *testing.T) {
	ended := make(chan error, 1)
	e := start(t, genuine(func(_ context.Context, c net.Conn) {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}))
	d := e.dialer(t)
	attach(t, d)
	e.RemovePeer(d.Key.Public())
	if err := <-ended; err == nil {
		t.Error("the server took it for a clean end")
	}
	again := &Dialer{Endpoint: e.endpoint, ServerKey: e.key.Public(), Key: d.Key, HandshakeTimeout: 300 * time.Millisecond}
	if _, err := again.Dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("Dial gives %v", err)
	}
}
