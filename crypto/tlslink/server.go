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

	"github.com/adit-net/adit/crypto/keys"
)

const (
	// defaultHandshakes times what a connection costs before it is admitted
	// (below 64 KiB) is what strangers can make the server hold.
	defaultHandshakes = 1024

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
	Local      netip.AddrPort
	Remote     netip.AddrPort
	Protection Protection
}

// Admit judges an arrival. It is called concurrently, and anybody may have
// sent the opening.
//
// If answer is nil the opening is not genuine, and the web site has the
// connection. Otherwise the answer, of [AnswerSize] bytes, is sent, and serve
// runs in the connection's goroutine with a conn as [Carrier.Attach] describes
// it. The connection is closed when serve returns, which must be soon after its
// ctx ends. A nil serve closes the connection at once.
//
// A carrier may fail just after it was admitted. Then serve is not called.
type Admit func(ctx context.Context, a Arrival) (answer []byte, serve func(ctx context.Context, conn net.Conn))

// Server is an HTTPS server that finds carriers among its visitors.
type Server struct {
	// GetCertificate gives the certificate to show; see [tls.Config].
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Site answers whoever brings no genuine opening; nil: a plain page. If
	// Site has a method CloseIdleConnections, Serve calls it at its end.
	Site http.Handler

	// HandshakeTimeout bounds the TLS handshake, and the reading of an HTTP/1
	// request's header; zero: 10 s.
	HandshakeTimeout time.Duration

	// MaxHandshakes bounds the connections that have not been admitted: those
	// in a handshake and those to the web site. Beyond it the oldest of them is
	// closed. Zero: 1024.
	MaxHandshakes int

	Log *slog.Logger // nil: nothing is logged
}

// Serve serves a listener, which it closes, until ctx ends. It then closes
// what has not been admitted, gives everybody else 5 s to end, and returns nil
// when all has ended. If the listener fails it does the same and returns the error.
// A listener that somebody else closes brings nobody any more; those who are there
// are served until ctx ends.
func (s *Server) Serve(ctx context.Context, ln net.Listener, admit Admit) error {
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	x := s.newExchange(serving, admit)
	stop := context.AfterFunc(serving, func() { _ = ln.Close() }) // whoever accepts sees the error
	defer stop()
	err := x.http.Serve(tls.NewListener(listener{ln, x.lobby}, x.http.TLSConfig))
	if errors.Is(err, net.ErrClosed) {
		<-ctx.Done()
	}
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
}

// Accept leaves deadlines to net/http, which sets one first thing.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	Tune(c)
	return l.lobby.enter(c), nil
}

// exchange is one run of [Server.Serve].
type exchange struct {
	admit Admit
	site  http.Handler
	lobby *lobby
	http  *http.Server
	log   *slog.Logger

	// http2 serves a site to a connection that speaks HTTP/2, until it ends.
	http2 func(ctx context.Context, c net.Conn, site http.Handler)

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
	x.http.TLSNextProto["h2"] = func(_ *http.Server, c *tls.Conn, h http.Handler) { x.serveHTTP2(ctx, c, h) }
	return x
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
func (x *exchange) serveHTTP2(ctx context.Context, c *tls.Conn, site http.Handler) {
	answer, serve := x.watch(ctx, c, site)
	if answer == nil {
		return
	}
	if err := x.attend(ctx, c, answer, serve); err != nil {
		x.log.Debug("carrier failed while it opened", "remote", c.RemoteAddr(), "error", err)
	}
}

// watch serves the site until the connection ends or an opening has been admitted.
func (x *exchange) watch(ctx context.Context, c *tls.Conn, site http.Handler) (answer []byte, serve func(context.Context, net.Conn)) {
	v := c.NetConn().(*visitor)
	state := c.ConnectionState()
	// A resumed TLS session has not shown the server's key to this client.
	if state.Version != tls.VersionTLS13 || state.DidResume || v.server.IsZero() {
		x.http2(ctx, c, site)
		return nil, nil
	}
	t := newTap(c, func(opening []byte) bool {
		answer, serve = x.judge(ctx, v, state, opening)
		return answer != nil
	})
	x.http2(ctx, t, site)
	t.end()
	return answer, serve
}

func (x *exchange) judge(ctx context.Context, v *visitor, state tls.ConnectionState, opening []byte) (answer []byte, serve func(context.Context, net.Conn)) {
	channel, err := state.ExportKeyingMaterial(ExporterLabel, nil, 32)
	if err != nil {
		x.log.Error("export keying material", "error", err)
		return nil, nil
	}
	answer, serve = x.admit(ctx, Arrival{
		Opening:    opening,
		Server:     v.server,
		Channel:    [32]byte(channel),
		Local:      addrPort(v.LocalAddr()),
		Remote:     addrPort(v.RemoteAddr()),
		Protection: protectionOf(state),
	})
	if answer != nil {
		x.lobby.admit(v)
	}
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
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := tcp.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()) // a listener for both families maps IPv4
}
