package door

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/socks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// gatehouse is a door with all that it works with.
type gatehouse struct {
	*Door
	t      *testing.T
	store  *users.Store
	at     string // where the door is
	target string // echoes
	log    *journal
}

type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// open serves a door until the test ends. There are the users anna, with a password and a
// principal, and bert.
func open(t *testing.T, cfg Config) *gatehouse {
	t.Helper()
	g := &gatehouse{t: t, log: &journal{}}
	var err error
	g.store, err = users.Create(t.Context(), filepath.Join(t.TempDir(), "adit.db"))
	g.must(err)
	g.must(g.store.AddUser(t.Context(), "anna"))
	g.must(g.store.AddUser(t.Context(), "bert"))
	g.must(g.store.SetPassword(t.Context(), "anna", "correct horse"))
	g.must(g.store.AddPrincipal(t.Context(), "anna", "anna@ADIT.TEST"))
	log := slog.New(slog.NewTextHandler(g.log, nil))
	s := server.New(server.Config{Users: g.store, Relay: &server.Exit{Allow: server.Allow{Loopback: true}}, Log: log})
	cfg.Server, cfg.Users, cfg.Log = s, g.store, log
	g.Door = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ln, echo := g.listen(), g.listen()
	g.at, g.target = ln.Addr().String(), echo.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { g.check(s.Serve(ctx)) })
	serving.Go(func() { g.check(g.Serve(ctx, ln)) })
	serving.Go(func() { echoAll(&serving, echo) })
	t.Cleanup(func() {
		cancel()
		echo.Close()
		serving.Wait()
		g.must(g.store.Close())
	})
	return g
}

func echoAll(serving *sync.WaitGroup, ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		serving.Go(func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		})
	}
}

func (g *gatehouse) listen() net.Listener {
	g.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	g.must(err)
	return ln
}

func (g *gatehouse) check(err error) {
	if err != nil {
		g.t.Error(err)
	}
}

func (g *gatehouse) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *gatehouse) dial() net.Conn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.at)
	g.must(err)
	g.t.Cleanup(func() { c.Close() })
	g.must(c.SetDeadline(time.Now().Add(patience)))
	return c
}

// talk has an app say something on a connection, and compares what it hears.
func (g *gatehouse) talk(c net.Conn, says, hears string) {
	g.t.Helper()
	_, err := io.WriteString(c, says)
	g.must(err)
	b := make([]byte, len(hears))
	if n, err := io.ReadFull(c, b); string(b) != hears {
		g.t.Fatalf("to %q the door says %q (%v), want %q", says, b[:n], err, hears)
	}
}

// through has an app that has logged in connect to the target.
func (g *gatehouse) through(c net.Conn) {
	g.t.Helper()
	g.talk(c, g.request(), "\x05\x00\x00\x01")
	_, err := io.ReadFull(c, make([]byte, 6)) // the exit's port
	g.must(err)
	g.talk(c, "hello", "hello")
}

func (g *gatehouse) request() string {
	a := netip.MustParseAddrPort(g.target)
	return string(append([]byte{5, 1, 0, 1, 127, 0, 0, 1}, byte(a.Port()>>8), byte(a.Port())))
}

// expectLog waits for words in the log.
func (g *gatehouse) expectLog(words ...string) {
	g.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		missing := false
		for _, w := range words {
			missing = missing || !strings.Contains(g.log.String(), w)
		}
		if !missing {
			return
		}
	}
	g.t.Errorf("the log has not %q:\n%s", words, g.log)
}

const login = "\x01\x04anna\x0dcorrect horse"

func TestUsersComeInByPassword(t *testing.T) {
	g := open(t, Config{Methods: []Method{Password}})
	c := g.dial()
	g.talk(c, "\x05\x02\x00\x02"+login, "\x05\x02\x01\x00")
	g.through(c)
	if n := g.Apps(); n != 1 {
		t.Errorf("%d apps are in", n)
	}
	c.Close()
	g.expectLog("user=anna", "flow")
	for _, wrong := range []string{"\x01\x04anna\x0dcorrect Horse", "\x01\x04bert\x0dcorrect horse", "\x01\x04dora\x0dcorrect horse"} {
		g.talk(g.dial(), "\x05\x01\x02"+wrong, "\x05\x02\x01\x01")
	}
	g.expectLog("login refused", "user=dora", "wrong user or password")
	g.talk(g.dial(), "\x05\x01\x00", "\x05\xff")
	g.expectLog("it offers [0], wanted are [2]", "app=127.0.0.1:")
	g.talk(g.dial(), "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "\x00\x5b")
	if strings.Contains(g.log.String(), "horse") {
		t.Error("there is a password in the log")
	}
}

func TestConnectionsEndWithTheirUser(t *testing.T) {
	g := open(t, Config{Methods: []Method{Password}})
	idle, busy := g.dial(), g.dial()
	g.talk(idle, "\x05\x01\x02"+login, "\x05\x02\x01\x00")
	g.talk(busy, "\x05\x01\x02"+login, "\x05\x02\x01\x00")
	g.through(busy)
	g.must(g.store.SetUserDisabled(t.Context(), "anna", true))
	begun := time.Now()
	for name, c := range map[string]net.Conn{"idle": idle, "busy": busy} {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the %s connection reads %v, want a broken one", name, err)
		}
	}
	if d := time.Since(begun); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	g.talk(g.dial(), "\x05\x01\x02"+login, "\x05\x02\x01\x01")
}

// The path may be lost while the app enters, or later.
func TestStayEndsWithItsPath(t *testing.T) {
	for name, early := range map[string]bool{"while it enters": true, "later": false} {
		paths := make(chan func(), 1)
		stopped := make(chan struct{})
		g := open(t, Config{Methods: []Method{Password}, Below: func(_ context.Context, _ socks.Entry, lost func()) Path {
			if early {
				lost()
			}
			paths <- lost
			return Path{Words: func() []string { return nil }, Stop: func() { close(stopped) }}
		}})
		c := g.dial()
		_, err := io.WriteString(c, "\x05\x01\x02"+login)
		g.must(err)
		lose := <-paths
		if !early {
			g.talk(c, "", "\x05\x02\x01\x00")
			g.through(c)
			lose()
		}
		if _, err := io.Copy(io.Discard, c); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s, it ends with %v", name, err)
		}
		<-stopped
	}
}

func TestDoorThatClosesLetsThoseInsideGoOn(t *testing.T) {
	g := open(t, Config{Methods: []Method{Password}})
	ln := g.listen()
	g.at = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- g.Serve(t.Context(), ln) }()
	c := g.dial()
	g.talk(c, "\x05\x01\x02"+login, "\x05\x02\x01\x00")
	g.through(c)
	ln.Close()
	g.talk(c, "and on", "and on")
	select {
	case err := <-served:
		t.Errorf("the door is done with an app inside: %v", err)
	default:
	}
	c.Close()
	g.must(<-served)
}

func TestUsersComeInByNetwork(t *testing.T) {
	everywhere, here := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32")
	g := open(t, Config{
		Methods:  []Method{Network, Password},
		Networks: map[netip.Prefix]string{everywhere: "anna", here: "bert"},
	})
	c := g.dial()
	g.talk(c, "\x05\x02\x00\x02", "\x05\x00")
	g.through(c)
	c.Close()
	g.expectLog("user=bert")
	g.talk(g.dial(), "\x04\x01"+g.request()[8:]+"\x7f\x00\x00\x01\x00", "\x00\x5a")
	g.must(g.store.SetUserDisabled(t.Context(), "bert", true))
	g.talk(g.dial(), "\x05\x02\x00\x02", "\x05\xff")

	g = open(t, Config{Methods: []Method{Password, Network}, Networks: map[netip.Prefix]string{here: "bert"}})
	g.talk(g.dial(), "\x05\x02\x00\x02", "\x05\x02")
	g.talk(g.dial(), "\x05\x01\x00", "\x05\x00")
	g = open(t, Config{Methods: []Method{Network}, Networks: map[netip.Prefix]string{netip.MustParsePrefix("192.0.2.0/24"): "anna"}})
	g.talk(g.dial(), "\x05\x02\x00\x02", "\x05\xff")
}

func TestNobodyComesInFromElsewhere(t *testing.T) {
	g := open(t, Config{
		Methods: []Method{Password},
		From:    []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		TLS: &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			t.Error("an app from elsewhere gets as far as TLS")
			return nil, nil
		}},
	})
	c, err := net.Dial("tcp", g.at)
	if err == nil { // it may be closed as soon as it is open
		defer c.Close()
		err = tls.Client(c, &tls.Config{ServerName: "door"}).HandshakeContext(t.Context())
	}
	if err == nil {
		t.Error("an app from elsewhere shakes hands")
	}
	g.expectLog("nobody may come from there")
	g = open(t, Config{Methods: []Method{Password}, From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	c = g.dial()
	g.talk(c, "\x05\x01\x02"+login, "\x05\x02\x01\x00")
	g.through(c)
}

func TestUsersComeInByCertificate(t *testing.T) {
	ca, own := newCA(t), newCA(t)
	g := open(t, Config{
		Methods: []Method{Certificate, Password},
		Names:   Names{Users: map[string]string{"Bert's laptop": "bert"}},
		TLS: &tls.Config{
			Certificates: []tls.Certificate{own.issue(t, x509.Certificate{DNSNames: []string{"door"}})},
			ClientCAs:    ca.pool(), ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12,
		},
	})
	dial := func(certs ...tls.Certificate) *tls.Conn {
		return tls.Client(g.dial(), &tls.Config{RootCAs: own.pool(), ServerName: "door", Certificates: certs})
	}
	for cn, user := range map[string]string{"anna": "anna", "Bert's laptop": "bert"} {
		c := dial(ca.issue(t, named(cn)))
		g.talk(c, "\x05\x02\x00\x02", "\x05\x00")
		g.through(c)
		c.Close()
		g.expectLog("user=" + user)
	}
	for _, cn := range []string{"Dora's laptop", ""} {
		c := dial(ca.issue(t, named(cn)))
		g.talk(c, "\x05\x02\x00\x02", "\x05\x02") // it may say so otherwise
		g.talk(c, login, "\x01\x00")
		g.through(c)
	}
	g.talk(dial(ca.issue(t, named("dora"))), "\x05\x02\x00\x02", "\x05\xff") // there is no such user
	g.talk(dial(), "\x05\x01\x00", "\x05\xff")
	c := dial(newCA(t).issue(t, named("anna"))) // from somebody else
	_, _ = io.WriteString(c, "\x05\x01\x00")
	if b, err := io.ReadAll(c); err == nil || len(b) > 0 {
		t.Errorf("with another CA's certificate it hears %q, %v", b, err)
	}
}

// paper is a context of which no message is made.
type paper string

func (p paper) Name() string                                      { return string(p) }
func (p paper) Wrap(_, _ []byte, _ bool) []byte                   { panic("wrapped") }
func (p paper) Unwrap([]byte) ([]byte, bool, error)               { panic("unwrapped") }
func (p paper) UnwrapDatagram(token []byte) ([]byte, bool, error) { panic("unwrapped") }

func TestUsersComeInByPrincipal(t *testing.T) {
	g := open(t, Config{
		Methods: []Method{GSSAPI}, Protection: socks.GSSUnprotected, NEC: true,
		Accept: func(token []byte) (Context, []byte, error) {
			if string(token) == "bad" {
				return nil, nil, errors.New("clocks differ")
			}
			return paper(token), []byte("ok"), nil
		},
	})
	c := g.dial()
	g.talk(c, "\x05\x02\x00\x01\x01\x01\x00\x0eanna@ADIT.TEST\x01\x02\x00\x01\x02", "\x05\x01\x01\x01\x00\x02ok\x01\x02\x00\x01\x00")
	g.through(c)
	c.Close()
	g.expectLog("user=anna")
	g.talk(g.dial(), "\x05\x02\x00\x01\x01\x01\x00\x0ebert@ADIT.TEST\x01\x02\x00\x01\x02", "\x05\x01\x01\xff\x00\x00")
	g.expectLog("no user has this principal")
	g.talk(g.dial(), "\x05\x02\x00\x02", "\x05\xff")
}

func TestDatagramsAreServedWhereTheyAreAllowed(t *testing.T) {
	for udp, reply := range map[bool]string{false: "\x05\x07", true: "\x05\x00"} {
		g := open(t, Config{Methods: []Method{Password}, UDP: udp})
		g.talk(g.dial(), "\x05\x01\x02"+login+"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x02\x01\x00"+reply)
	}
}
