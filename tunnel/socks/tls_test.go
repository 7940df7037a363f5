package socks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

func asRelay(t testing.TB, c *net.TCPConn) relay.Conn {
	t.Helper()
	conn, err := asConn(c)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// tlsConfigs makes a certificate, and what both sides need to use it.
func tlsConfigs(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"door"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: roots, ServerName: "door"}
}

// tlsDoor serves a door over TLS, and gives what dials it.
func tlsDoor(t testing.TB, d *Door) func() (*tls.Conn, *net.TCPConn) {
	t.Helper()
	server, client := tlsConfigs(t)
	ln := listen(t, "127.0.0.1:0")
	d.TLS = server
	serve(t, d, ln)
	return func() (*tls.Conn, *net.TCPConn) {
		c := dial(t, ln.Addr().String())
		return tls.Client(c, client), c
	}
}

func TestAppsComeInOverTLS(t *testing.T) {
	at := tlsDoor(t, &Door{Relay: direct{}, Admission: Admission{Authenticate: Password("fred", "secret")}})
	target := listen(t, "127.0.0.1:0")
	for _, ahead := range []bool{false, true} {
		app, _ := at()
		said := "\x05\x01\x02\x01\x04fred\x06secret" + request5(t, target.Addr().String())
		if ahead {
			send(t, app, said+"hello")
		} else {
			for i := range said {
				send(t, app, said[i:i+1])
			}
			send(t, app, "hello")
		}
		expect(t, app, "\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
		far := accept(t, target)
		expect(t, far, "hello")
		if err := app.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		expectEnd(t, far)
		long := strings.Repeat("x", 1<<20)
		go func() {
			_, _ = io.WriteString(far, long)
			far.Close()
		}()
		expect(t, app, long)
		expectEnd(t, app)
	}
}

func TestResetIsNoCleanEndOverTLS(t *testing.T) {
	at := tlsDoor(t, &Door{Relay: direct{}, Admission: Admission{Authenticate: Password("fred", "secret")}})
	target := listen(t, "127.0.0.1:0")
	open := func(app *tls.Conn) *net.TCPConn {
		t.Helper()
		send(t, app, "\x05\x01\x02\x01\x04fred\x06secret"+request5(t, target.Addr().String()))
		expect(t, app, "\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
		return accept(t, target)
	}
	app, _ := at()
	far := open(app)
	far.SetLinger(0)
	far.Close()
	if _, err := app.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the app reads %v", err)
	}
	app, below := at()
	far = open(app)
	below.CloseWrite() // without a word over TLS
	expectReset(t, far)
}

func TestWhoeverSpeaksNoTLSIsHeardByNobody(t *testing.T) {
	at := tlsDoor(t, &Door{Relay: never{t: t}, Admission: Admission{Identify: func(context.Context, net.Conn) (string, error) {
		t.Error("somebody asks who it is")
		return "fred", nil
	}}, HandshakeTimeout: time.Second})
	_, c := at()
	send(t, c, "\x05\x01\x00"+request5(t, "127.0.0.1:80"))
	b, _ := io.ReadAll(c)
	if strings.HasPrefix(string(b), "\x05") {
		t.Errorf("it is answered %q", b)
	}
	_, c = at()
	if b, _ := io.ReadAll(c); len(b) > 0 { // says nothing
		t.Errorf("it is answered %q", b)
	}
}
