package tlslink

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/adit-net/adit/crypto/keys"
)

const (
	// defaultHandshakes times what a connection costs before it is admitted
	// (below 64 KiB) is what strangers can make the server hold.
	defaultHandshakes = 1024

	// siteIdle is when the web site ends a connection on which nothing happens.
	siteIdle = time.Minute

	// maxHeaderBytes bounds a request's header, maxStreams the requests at a
	// time on one HTTP/2 connection, uploadBuffer what is buffered of their bodies.
	maxHeaderBytes = 16 << 10
	maxStreams     = 32
	uploadBuffer   = 64 << 10

	// stopTimeout is how long an admitted connection may take to end by itself
	// when the server stops.
	stopTimeout = 5 * time.Second
)

// Arrival is an opening that has come in on a new carrier and is not judged
// yet.
type Arrival struct {
	Opening    []byte   // OpeningSize bytes
	Server     [32]byte // SHA-256 of the SubjectPublicKeyInfo that the client was shown
	Channel    [32]byte // the exporter value for ExporterLabel
	Remote     netip.AddrPort
	Protection Protection
}

// Admit judges an arrival. It is called concurrently, and anybody may have
// sent the opening.
//
// If answer is nil the opening is not genuine, and the web site has the
// connection. Otherwise the answer, of [AnswerSize] bytes, is sent. Then serve runs in
// the connection's goroutine with a conn as [Carrier.Attach] describes it; the connection is closed
// when it returns. It must return soon after its ctx ends. A nil serve closes the connection at once.
type Admit func(ctx context.Context, a Arrival) (answer []byte, serve func(ctx context.Context, conn net.Conn))

// Server is an HTTPS server that finds carriers among its visitors.
type Server struct {
	// GetCertificate gives the certificate to show; see [tls.Config].
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Site answers whoever brings no genuine opening; nil: a plain page. If
	// Site has a method CloseIdleConnections, Serve calls it at its end.
	Site http.Handler

	// HandshakeTimeout bounds the TLS handshake, and the reading of an HTTP/1 request's
	// header; zero: 10 s.
	HandshakeTimeout time.Duration

	// MaxHandshakes bounds the connections that have not been admitted: those
	// in a handshake and those to the web site. Beyond it, the oldest of them is closed. Zero: 1024.
	MaxHandshakes int

	Log *slog.Logger // nil: nothing is logged
}

// Serve serves a listener, which it closes, until ctx ends. It then closes
// what has not been admitted, gives everybody else 5 s to end, and returns nil
// when all has ended. If the listener fails it does the same and returns the error.
func (s *Server) Serve(ctx context.Context, ln net.Listener, admit Admit) error {
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	x := s.newExchange(serving, admit)
	closeListener := context.AfterFunc(serving, func() { _ = ln.Close() }) // its only user sees the error
	defer closeListener()

	config := x.http.TLSConfig
	err := x.http.Serve(tls.NewListener(listener{ln, x.lobby, x.log}, config))
	cancel()
	x.end()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve tls: %w", err)
}

// listener brings accepted connections to the lobby.
type listener struct {
	net.Listener
	lobby *lobby
	log   *slog.Logger
}

// Accept leaves deadlines to net/http, which sets one first thing.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := tune(c); err != nil { // a connection that is closed again already, or a kernel that lacks a setting
		l.log.Debug("socket keeps its defaults", "remote", c.RemoteAddr(), "err", err)
	}
	return l.lobby.enter(c), nil
}

// exchange is one run of [Server.Serve].
type exchange struct {
	admit Admit
	site  http.Handler
	lobby *lobby
	http  *http.Server
	http2 *http2.Server
	log   *slog.Logger

	conns sync.WaitGroup // the connections' goroutines

	// HTTP/2 requests run in goroutines of their own, which hold requests to
	// read.
	requests sync.RWMutex
	over     bool // no request may begin any more
}

func (s *Server) newExchange(ctx context.Context, admit Admit) *exchange {
	x := &exchange{
		admit: admit,
		site:  s.Site,
		lobby: &lobby{limit: cmp.Or(max(s.MaxHandshakes, 0), defaultHandshakes), all: map[*visitor]struct{}{}},
		log:   s.Log,
	}
	if x.site == nil {
		x.site = http.HandlerFunc(plainPage)
	}
	if x.log == nil {
		x.log = slog.New(slog.DiscardHandler)
	}
	x.http, x.http2 = s.newHTTP(x, x.log)
	x.http.BaseContext = func(net.Listener) context.Context { return ctx }
	x.http.ConnState = x.count
	x.http.TLSNextProto["h2"] = func(hs *http.Server, c *tls.Conn, h http.Handler) { x.serveHTTP2(ctx, hs, c, h) }
	return x
}

// newHTTP sets up the web site. Nothing in here knows of carriers: this is
// what a stranger meets.
func (s *Server) newHTTP(site http.Handler, log *slog.Logger) (*http.Server, *http2.Server) {
	h1 := &http.Server{
		Handler:           site,
		ReadHeaderTimeout: cmp.Or(max(s.HandshakeTimeout, 0), defaultTimeout), // bounds the TLS handshake too
		IdleTimeout:       siteIdle,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          newErrorLog(log),
		TLSConfig: &tls.Config{
			GetCertificate: s.showCertificate,
			NextProtos:     alpn[:],
			// A web site that refuses 1.2 would stand out. Carriers insist on 1.3 elsewhere.
			MinVersion: tls.VersionTLS12,
			// A burst is full records from the start.
			DynamicRecordSizingDisabled: true,
		},
	}
	h2 := &http2.Server{
		IdleTimeout:                  siteIdle,
		MaxConcurrentStreams:         maxStreams,
		MaxReadFrameSize:             16 << 10, // what RFC 9113 section 4.2 begins with
		MaxUploadBufferPerConnection: uploadBuffer,
		MaxUploadBufferPerStream:     uploadBuffer,
	}
	// It fails only for a list of cipher suites, which is not set.
	_ = http2.ConfigureServer(h1, h2)
	return h1, h2
}

// showCertificate notes down which key a visitor has been shown.
func (s *Server) showCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := s.GetCertificate(hello)
	if err != nil {
		return nil, err
	}
	leaf, err := leafOf(cert)
	if err != nil {
		return nil, err
	}
	if v, ok := hello.Conn.(*visitor); ok {
		v.server = keys.PinOf(leaf)
	}
	return cert, nil
}

func leafOf(c *tls.Certificate) (*x509.Certificate, error) {
	if c.Leaf != nil {
		return c.Leaf, nil
	}
	if len(c.Certificate) == 0 {
		return nil, errors.New("the certificate is empty")
	}
	return x509.ParseCertificate(c.Certificate[0])
}

// count follows the connections' goroutines.
func (x *exchange) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		x.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		x.conns.Done()
	}
}

// ServeHTTP is the web site.
func (x *exchange) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.requests.RLock()
	defer x.requests.RUnlock()
	if !x.over {
		x.site.ServeHTTP(w, r)
	}
}

// end waits until everything has ended.
func (x *exchange) end() {
	x.lobby.close()
	cut := time.AfterFunc(stopTimeout, x.lobby.closeAll)
	x.conns.Wait()
	cut.Stop()
	x.lobby.closeAll() // those whom a request has taken over
	x.requests.Lock()
	x.over = true
	x.requests.Unlock()
	if site, ok := x.site.(interface{ CloseIdleConnections() }); ok {
		site.CloseIdleConnections()
	}
}

// serveHTTP2 serves the site to an HTTP/2 connection, which may turn out to be a carrier.
func (x *exchange) serveHTTP2(ctx context.Context, hs *http.Server, c *tls.Conn, site http.Handler) {
	answer, serve := x.watch(ctx, hs, c, site)
	if answer == nil {
		return
	}
	if err := x.attend(ctx, c, answer, serve); err != nil {
		x.log.Debug("carrier failed while it opened", "remote", c.RemoteAddr(), "err", err)
	}
}

// watch serves the site until the connection ends or an opening has been admitted.
func (x *exchange) watch(ctx context.Context, hs *http.Server, c *tls.Conn, site http.Handler) (answer []byte, serve func(context.Context, net.Conn)) {
	options := &http2.ServeConnOpts{Context: ctx, Handler: site, BaseConfig: hs}
	v := c.NetConn().(*visitor)
	state := c.ConnectionState()
	// A resumed TLS session has not shown the server's key to this client.
	if state.Version != tls.VersionTLS13 || state.DidResume || v.server.IsZero() {
		x.http2.ServeConn(c, options)
		return nil, nil
	}
	x.http2.ServeConn(newTap(c, func(opening []byte) bool {
		channel, err := state.ExportKeyingMaterial(ExporterLabel, nil, 32)
		if err != nil {
			x.log.Error("export keying material", "err", err)
			return false
		}
		answer, serve = x.admit(ctx, Arrival{
			Opening:    opening,
			Server:     v.server,
			Channel:    [32]byte(channel),
			Remote:     addrPort(c.RemoteAddr()),
			Protection: protectionOf(state),
		})
		if answer == nil {
			return false
		}
		x.lobby.admit(v)
		return true
	}), options)
	return answer, serve
}

// attend sends the answer and has the carrier served.
func (x *exchange) attend(ctx context.Context, c *tls.Conn, answer []byte, serve func(context.Context, net.Conn)) error {
	conn := newConn(c, &c.NetConn().(*visitor).wire)
	defer conn.Close() // whoever served the carrier knows how it ended
	if len(answer) != AnswerSize {
		return fmt.Errorf("the answer has %d bytes, want %d", len(answer), AnswerSize)
	}
	if err := conn.SetDeadline(time.Now().Add(defaultTimeout)); err != nil {
		return err
	}
	if err := readPing(conn); err != nil {
		return err
	}
	if _, err := conn.Write(appendFrame(nil, frameExtension, answer)); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if serve != nil {
		serve(ctx, conn)
	}
	return nil
}

func protectionOf(s tls.ConnectionState) Protection {
	return Protection{
		Version:     tls.VersionName(s.Version),
		Cipher:      tls.CipherSuiteName(s.CipherSuite),
		KeyExchange: s.CurveID.String(),
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}
