//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// The yardstick: SOCKS 5 CONNECT, and crypto/tls with a connection for each session. It has no
// identities, no rules, no records, and nothing survives a lost connection; what is
// left is what TLS in Go costs by itself.

const relayCommand = "relay"

func startBareTLS(ctx context.Context, s *stage, dir string) (endpoint, error) {
	program, err := os.Executable()
	if err != nil {
		return endpoint{}, fmt.Errorf("find this program: %w", err)
	}
	listen, _, err := freeAddress()
	if err != nil {
		return endpoint{}, err
	}
	door, _, err := freeAddress()
	if err != nil {
		return endpoint{}, err
	}
	cert, key, err := makeCertificate(dir)
	if err != nil {
		return endpoint{}, err
	}
	server, err := s.start(ctx, dir, program, relayCommand, "server", listen, cert, key)
	if err != nil {
		return endpoint{}, err
	}
	client, err := s.start(ctx, dir, program, relayCommand, "client", door, cert, listen)
	return endpoint{door: door, client: []*process{client}, server: []*process{server}}, err
}

// runRelay is a process of the yardstick: "server", where to listen, certificate and key, or
// "client", where to listen, the server's certificate and its address.
func runRelay(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return errors.New("a relay has four arguments")
	}
	var handle func(net.Conn)
	if args[0] == "server" {
		pair, err := tls.LoadX509KeyPair(args[2], args[3])
		if err != nil {
			return fmt.Errorf("read the certificate: %w", err)
		}
		config := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
		handle = func(c net.Conn) { _ = relayOut(ctx, tls.Server(c, config)) }
	} else {
		text, err := os.ReadFile(args[2])
		if err != nil {
			return fmt.Errorf("read the server's certificate: %w", err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		dialer := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}}
		handle = func(c net.Conn) { _ = relayIn(ctx, c.(*net.TCPConn), dialer, args[3]) }
	}
	ln, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	serve(ctx, ln, handle)
	return nil
}

// relayIn takes a request of SOCKS 5 to the server: six bytes there with the target, and
// one back when it is reached.
func relayIn(ctx context.Context, app *net.TCPConn, dialer *tls.Dialer, server string) error {
	var buf [10]byte
	if _, err := io.ReadFull(app, buf[:3]); err != nil { // the greeting of an app without a password
		return err
	}
	if _, err := app.Write([]byte{5, 0}); err != nil {
		return err
	}
	if _, err := io.ReadFull(app, buf[:]); err != nil {
		return err
	}
	if buf[1] != socksConnect || buf[3] != 1 {
		return errors.New("not a request to connect to an IPv4 address")
	}
	c, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(buf[4:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buf[1:2]); err != nil {
		return err
	}
	if _, err := app.Write(buf[:]); err != nil {
		return err
	}
	relay(app, c.(*tls.Conn))
	return nil
}

func relayOut(ctx context.Context, c *tls.Conn) error {
	var to [6]byte
	if _, err := io.ReadFull(c, to[:]); err != nil {
		return err
	}
	var d net.Dialer
	t, err := d.DialContext(ctx, "tcp", parseAddress(to[:]).String())
	if err != nil {
		return err
	}
	defer t.Close()
	if _, err := c.Write([]byte{0}); err != nil {
		return err
	}
	relay(t.(*net.TCPConn), c)
	return nil
}

// halves is a connection whose directions end one by one.
type halves interface {
	net.Conn
	CloseWrite() error
}

// relay copies both ways until both have ended, or one has failed.
func relay(a, b halves) {
	oneWay := func(to, from halves) {
		if _, err := io.Copy(to, from); err != nil {
			to.Close()
			from.Close()
			return
		}
		_ = to.CloseWrite()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { oneWay(a, b) })
	oneWay(b, a)
}

// makeCertificate writes one for 127.0.0.1 into dir, with its key.
func makeCertificate(dir string) (certFile, keyFile string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", "", fmt.Errorf("make a certificate: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile:  {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return "", "", fmt.Errorf("write a certificate: %w", err)
		}
	}
	return certFile, keyFile, nil
}
