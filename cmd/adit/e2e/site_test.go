//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"image"
	"image/png"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/net/websocket"
)

// site is what runs in the target's namespace: HTTP on port 80, HTTPS on 443,
// SSH on 22, and on port 7 a service that answers with the digest of what came.
type site struct {
	caFile string // the certificate of the HTTPS server, to be trusted by itself
	spki   string // base64 of the SHA-256 of its public key, as Chromium wants it
	ssh    sshSite
	git    gitSite

	mu      sync.Mutex
	reports map[string]chan string // from pages in browsers, by the page's id
}

const digestPort = "7"

func (l *lab) startTarget() error {
	cert, err := l.site.makeCertificate(l.path("target.pem"))
	if err != nil {
		return err
	}
	if l.site.ssh, err = newSSHSite(l.path("ssh")); err != nil {
		return err
	}
	if l.site.git, err = newGitSite(l.path("git")); err != nil {
		return err
	}
	l.site.reports = make(map[string]chan string)

	webLog := &programLog{title: "the target's web server"}
	l.logs = append(l.logs, webLog)
	web := &http.Server{
		Handler:           l.site.handler(),
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(webLog, "", log.LstdFlags),
	}
	for address, serve := range map[string]func(net.Listener) error{
		":80":            web.Serve,
		":443":           func(ln net.Listener) error { return web.Serve(tls.NewListener(ln, tlsConfig(cert))) },
		":22":            acceptLoop(l.site.ssh.serve),
		":" + digestPort: acceptLoop(serveDigest),
	} {
		ln, err := targetNS.listen(address)
		if err != nil {
			return fmt.Errorf("listen at the target: %w", err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = serve(ln) }) // ends when the listener is closed
		l.onClose(func() { ln.Close(); wg.Wait() })
	}
	l.onClose(func() { web.Close() })
	return nil
}

// acceptLoop serves each connection in a goroutine and waits for all of them.
func acceptLoop(serve func(*net.TCPConn)) func(net.Listener) error {
	return func(ln net.Listener) error {
		var wg sync.WaitGroup
		defer wg.Wait()
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			wg.Go(func() { defer c.Close(); serve(c.(*net.TCPConn)) })
		}
	}
}

// serveDigest reads to the end and only then answers: with a peer that cannot
// half-close it never comes to that.
func serveDigest(c *net.TCPConn) {
	h := sha256.New()
	if _, err := io.Copy(h, c); err == nil {
		fmt.Fprintln(c, hex.EncodeToString(h.Sum(nil)))
	}
}

func digest(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:])
}

func (s *site) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, "you come from", host)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		// All of it first: net/http does not read on once the answer has begun.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(body)
	})
	mux.HandleFunc("GET /page/{id}", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, page) })
	mux.HandleFunc("GET /picture.png", func(w http.ResponseWriter, r *http.Request) {
		_ = png.Encode(w, image.NewGray(image.Rect(0, 0, 40, 30)))
	})
	mux.Handle("GET /socket", websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) }))
	mux.HandleFunc("POST /page/{id}", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 4<<10))
		select {
		case s.report(r.PathValue("id")) <- string(body):
		default: // a page reports once
		}
	})
	mux.Handle("/git/", s.git.handler())
	return mux
}

// page reports, to the address that it came from, how large its picture is and
// what came back through its WebSocket.
const page = `<!doctype html>
<title>adit</title>
<link rel="icon" href="data:,">
<script>
const report = text => fetch(location.pathname, {method: "POST", body: text});
const picture = new Promise((done, fail) => {
	const img = new Image();
	img.onload = () => done(img.naturalWidth + "x" + img.naturalHeight);
	img.onerror = () => fail("no picture");
	img.src = "/picture.png";
});
const socket = new Promise((done, fail) => {
	const ws = new WebSocket(location.origin.replace("http", "ws") + "/socket");
	ws.onopen = () => ws.send("through the adit");
	ws.onmessage = m => done(m.data);
	ws.onerror = () => fail("no WebSocket");
});
Promise.all([picture, socket]).then(got => report(got.join(", ")), report);
</script>`

// report is where the page with this id leaves its report.
func (s *site) report(id string) chan string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reports[id] == nil {
		s.reports[id] = make(chan string, 1)
	}
	return s.reports[id]
}

// makeCertificate makes a certificate for all names and addresses of the target.
func (s *site) makeCertificate(caFile string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "adit end-to-end tests"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{targetName, targetName4, targetName6},
		IPAddresses:           []net.IP{net.ParseIP(target4), net.ParseIP(target6)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	sum := sha256.Sum256(spki)
	s.caFile, s.spki = caFile, base64.StdEncoding.EncodeToString(sum[:])
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(caFile, certPEM, 0o644)
}

func tlsConfig(cert tls.Certificate) *tls.Config {
	// HTTP/1.1 alone, which WebSocket needs.
	return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
}
