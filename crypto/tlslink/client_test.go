package tlslink

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

// authority is a CA for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = sign(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour),
	})
	return a
}

func sign(t *testing.T, by *authority, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = &authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) issue(t *testing.T, name string, until time.Time) *tls.Certificate {
	t.Helper()
	cert, key := sign(t, a, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until,
	})
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func TestServerIsKnownByItsPinOrItsCAWithEveryFingerprint(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	good := ca.issue(t, "exit.test", time.Now().Add(time.Hour))
	expired := ca.issue(t, "exit.test", time.Now().Add(-time.Hour))
	_, self := newCertificate(t, "exit.test")

	cases := map[string]struct {
		cert    *tls.Certificate
		dialer  func(*Dialer) // what to change
		refused bool
		pin     bool // for the pin
	}{
		"CA":                           {cert: good, dialer: func(d *Dialer) { d.RootCAs = ca.pool() }},
		"CA, wrong name":               {cert: good, dialer: func(d *Dialer) { d.RootCAs, d.ServerName = ca.pool(), "other.test" }, refused: true},
		"CA, address for a name":       {cert: good, dialer: func(d *Dialer) { d.RootCAs, d.ServerName = ca.pool(), "" }, refused: true},
		"CA, expired":                  {cert: expired, dialer: func(d *Dialer) { d.RootCAs = ca.pool() }, refused: true},
		"CA, another":                  {cert: good, dialer: func(d *Dialer) { d.RootCAs = stranger.pool() }, refused: true},
		"CA, self-signed":              {cert: &self, dialer: func(d *Dialer) { d.RootCAs = ca.pool() }, refused: true},
		"CA of the system":             {cert: good, dialer: func(*Dialer) {}, refused: true},
		"pin":                          {cert: &self, dialer: func(d *Dialer) { d.UseCA = false }},
		"pin, another name":            {cert: &self, dialer: func(d *Dialer) { d.UseCA, d.ServerName = false, "other.test" }},
		"pin, no name":                 {cert: &self, dialer: func(d *Dialer) { d.UseCA, d.ServerName = false, "" }},
		"pin, another key":             {cert: &self, dialer: func(d *Dialer) { d.UseCA = false; d.Pin[31] ^= 1 }, refused: true, pin: true},
		"pin of a key that a CA knows": {cert: good, dialer: func(d *Dialer) { d.UseCA = false; d.Pin[0] ^= 1 }, refused: true, pin: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var opened atomic.Bool
			e := start(t, &Server{GetCertificate: always(c.cert)}, func(context.Context, Arrival) ([]byte, func(context.Context, net.Conn)) {
				opened.Store(true)
				return answer(), echo
			})
			leaf, err := leafOf(c.cert)
			if err != nil {
				t.Fatal(err)
			}
			for _, fingerprint := range fingerprints {
				for range 2 { // the second time is a reconnect
					d := e.dialer(fingerprint)
					d.Pin, d.UseCA = keys.PinOf(leaf), true
					c.dialer(d)
					if d.UseCA {
						d.Pin = [32]byte{}
					}
					carrier, err := d.Dial(t.Context())
					if err == nil {
						_ = carrier.Close()
					}
					if (err != nil) != c.refused || errors.Is(err, ErrWrongPin) != c.pin {
						t.Errorf("%s: %v", fingerprint, err)
					}
				}
			}
			if opened.Load() {
				t.Error("a client has sent an opening")
			}
		})
	}
}

func TestDialerWantsExactlyOneWayToKnowTheServer(t *testing.T) {
	ca := newAuthority(t)
	pin := [32]byte{1}
	for name, d := range map[string]*Dialer{
		"neither":               {},
		"both":                  {Pin: pin, UseCA: true},
		"roots without use":     {Pin: pin, RootCAs: ca.pool()},
		"roots without any use": {RootCAs: ca.pool()},
		"no port":               {Pin: pin, Address: "exit.test"},
		"unknown fingerprint":   {Pin: pin, Fingerprint: "netscape"},
	} {
		if d.Address == "" {
			d.Address = "exit.test:443"
		}
		var below counted
		d.DialTCP = func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			t.Cleanup(func() { _ = b.Close() })
			below.Conn = a
			return &below, nil
		}
		if c, err := d.Dial(t.Context()); err == nil {
			_ = c.Close()
			t.Errorf("%s: dialled", name)
		}
		if n := below.writes.Load(); n != 0 {
			t.Errorf("%s: something was written", name)
		}
		if below.Conn != nil && below.closes.Load() != 1 {
			t.Errorf("%s: the connection was closed %d times", name, below.closes.Load())
		}
	}
}

// bare runs a bare crypto/tls server that hands its connections to serve.
func bare(t *testing.T, config *tls.Config, serve func(*tls.Conn)) *exit {
	t.Helper()
	e := &exit{}
	e.key, e.cert = newCertificate(t, "exit.test")
	config.Certificates = []tls.Certificate{e.cert}
	ln := listen(t)
	e.address = ln.Addr().String()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				if s := tls.Server(c, config); s.Handshake() == nil && serve != nil {
					serve(s)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		conns.Wait()
	})
	return e
}

func TestServerWithoutTLS13OrHTTP2IsRefused(t *testing.T) {
	for name, config := range map[string]*tls.Config{
		"TLS 1.2":    {MaxVersion: tls.VersionTLS12, NextProtos: alpn[:]},
		"HTTP/1.1":   {NextProtos: []string{"http/1.1"}},
		"no ALPN":    {},
		"other ALPN": {NextProtos: []string{"imap"}},
	} {
		e := bare(t, config, nil)
		for _, fingerprint := range fingerprints {
			if c, err := e.dialer(fingerprint).Dial(t.Context()); err == nil {
				t.Errorf("%s, %s: dialled: %+v", name, fingerprint, c.Protection())
				_ = c.Close()
			}
		}
	}
}

func TestWrongPinEndsTheHandshakeItself(t *testing.T) {
	e := bare(t, &tls.Config{NextProtos: alpn[:]}, func(*tls.Conn) { t.Error("the server's handshake succeeds") })
	for _, fingerprint := range fingerprints {
		d := e.dialer(fingerprint)
		d.Pin[0] ^= 1
		if _, err := d.Dial(t.Context()); !errors.Is(err, ErrWrongPin) {
			t.Errorf("%s: %v", fingerprint, err)
		}
	}
}

func TestEveryConnectionHasAChannelOfItsOwn(t *testing.T) {
	e := start(t, &Server{}, nobody)
	if a, b := e.dial(t, "chrome"), e.dial(t, "chrome"); a.Channel() == b.Channel() {
		t.Error("two connections have one exporter value")
	}
}

func TestDialAndAttachGiveUp(t *testing.T) {
	silent := listen(t)
	defer silent.Close()
	mute := bare(t, &tls.Config{NextProtos: alpn[:]}, func(c *tls.Conn) { _, _ = io.Copy(io.Discard, c) })
	for _, fingerprint := range fingerprints {
		d := mute.dialer(fingerprint)
		c, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.timeout = 50 * time.Millisecond
		if _, _, err := c.Attach(t.Context(), opening()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: attach, time-out: %v", fingerprint, err)
		}
		if c, err = d.Dial(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, _, err := c.Attach(ctx, opening()); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: attach, cancelled: %v", fingerprint, err)
		}
		if _, err := c.conn.Write([]byte{1}); err == nil {
			t.Errorf("%s: the carrier is still open", fingerprint)
		}

		d.Address, d.HandshakeTimeout = silent.Addr().String(), 50*time.Millisecond
		if _, err := d.Dial(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: dial, time-out: %v", fingerprint, err)
		}
		d.HandshakeTimeout = patience
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := d.Dial(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: dial, cancelled: %v", fingerprint, err)
		}
	}
}

func TestAttachRefusesAnOpeningOfAnotherSize(t *testing.T) {
	e := start(t, &Server{}, nobody)
	for _, size := range []int{0, OpeningSize - 1, OpeningSize + 1} {
		if _, _, err := e.dial(t, "go").Attach(t.Context(), make([]byte, size)); err == nil || errors.Is(err, ErrWebsite) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
