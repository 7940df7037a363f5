package tlslink

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/crypto/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for.
const patience = 20 * time.Second

var fingerprints = []string{"chrome", "firefox", "safari", "random", "go"}

// exit is a running server.
type exit struct {
	address string
	key     *keys.Server
	cert    tls.Certificate
	stop    func() // and wait
}

func newCertificate(t testing.TB, names ...string) (*keys.Server, tls.Certificate) {
	t.Helper()
	key, err := keys.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := key.Certificate(names...)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// start runs a server until the test ends. s needs no certificate.
func start(t testing.TB, s *Server, admit Admit) *exit {
	t.Helper()
	e := &exit{}
	e.key, e.cert = newCertificate(t, "exit.test", "127.0.0.1")
	if s.GetCertificate == nil {
		s.GetCertificate = always(&e.cert)
	}
	ln := listen(t)
	e.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln, admit) }()
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

func always(c *tls.Certificate) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c, nil }
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (e *exit) dialer(fingerprint string) *Dialer {
	return &Dialer{Address: e.address, ServerName: "exit.test", Pin: e.key.Pin(), Fingerprint: fingerprint, HandshakeTimeout: patience}
}

func (e *exit) dial(t testing.TB, fingerprint string) *Carrier {
	t.Helper()
	c, err := e.dialer(fingerprint).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
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

func nobody(context.Context, Arrival) ([]byte, func(context.Context, net.Conn)) { return nil, nil }

func echo(_ context.Context, c net.Conn) { _, _ = io.Copy(c, c) }

// attach opens a carrier to the end.
func (e *exit) attach(t testing.TB, fingerprint string) net.Conn {
	t.Helper()
	conn, got, err := e.dial(t, fingerprint).Attach(t.Context(), opening())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, answer()) {
		t.Fatalf("answer %x", got)
	}
	return conn
}

func TestCarrierCarriesBytesWithEveryFingerprint(t *testing.T) {
	for _, fingerprint := range fingerprints {
		t.Run(fingerprint, func(t *testing.T) {
			arrived := make(chan Arrival, 1)
			e := start(t, &Server{}, func(_ context.Context, a Arrival) ([]byte, func(context.Context, net.Conn)) {
				arrived <- a
				return answer(), echo
			})
			c := e.dial(t, fingerprint)
			conn, got, err := c.Attach(t.Context(), opening())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, answer()) {
				t.Errorf("answer %x", got)
			}
			a := <-arrived
			if !bytes.Equal(a.Opening, opening()) {
				t.Errorf("opening %x", a.Opening)
			}
			if a.Channel != c.Channel() || a.Channel == [32]byte{} {
				t.Errorf("exporter values: client %x, server %x", c.Channel(), a.Channel)
			}
			if a.Server != c.Server() || a.Server != e.key.Pin() {
				t.Errorf("server key: client %x, server %x", c.Server(), a.Server)
			}
			if a.Remote.String() != conn.LocalAddr().String() {
				t.Errorf("remote is %v, want %v", a.Remote, conn.LocalAddr())
			}
			checkProtection(t, fingerprint, c.Protection(), a.Protection)
			roundTrip(t, conn, 1<<20)
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func checkProtection(t *testing.T, fingerprint string, client, server Protection) {
	t.Helper()
	want := Protection{Version: "TLS 1.3", Cipher: server.Cipher, KeyExchange: server.KeyExchange, Fingerprint: fingerprint}
	if client != want {
		t.Errorf("client has %+v, server %+v", client, server)
	}
	exchange := "X25519MLKEM768"
	if fingerprint == "firefox" || fingerprint == "safari" { // these presets are older than it
		exchange = "X25519"
	}
	if client.KeyExchange != exchange {
		t.Errorf("key exchange is %s, want %s", client.KeyExchange, exchange)
	}
}

// roundTrip sends n random bytes and wants them back.
func roundTrip(t testing.TB, c net.Conn, n int) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, n)
	_, _ = rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
	}()
	got := make([]byte, n)
	_, err := io.ReadFull(c, got)
	if err := errors.Join(err, <-wrote); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatal("other bytes came back")
	}
}

func TestOpeningThatIsNotGenuineIsToldByTheWebSite(t *testing.T) {
	e := start(t, &Server{}, nobody)
	for _, fingerprint := range fingerprints {
		if _, _, err := e.dial(t, fingerprint).Attach(t.Context(), opening()); !errors.Is(err, ErrWebsite) {
			t.Errorf("%s: %v", fingerprint, err)
		}
	}
}

func TestRefusalIsAnsweredAndTheConnectionEnds(t *testing.T) {
	e := start(t, &Server{}, genuine(nil))
	conn := e.attach(t, "chrome")
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read gives %d, %v, want the end", n, err)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
