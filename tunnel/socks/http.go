package socks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

const (
	maxHeader = 64 << 10 // bytes in the header of a request or response

	// idleTimeout is how long an app may keep its connection between two
	// requests.
	idleTimeout = 2 * time.Minute

	hint = "This port is adit's proxy, and has no pages. Set it as the proxy of your program.\n"
)

// http serves an app that speaks HTTP: CONNECT, and requests with a whole
// "http://" URL. Every app's connection has a server of its own, so that none
// sees anything of another.
func (a *app) http(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &proxy{
		app:   a,
		conn:  &httpConn{Conn: a.conn, in: a.in},
		log:   slog.NewLogLogger(a.door.Log.Handler(), slog.LevelDebug),
		ended: make(chan struct{}),
	}
	p.newForwarder = func(g *guest) *forwarder { return newForwarder(ctx, p, g) }
	defer func() { p.forward.stop() }()

	timeout := a.door.HandshakeTimeout
	if a.entry == refused {
		timeout = min(refusedTimeout, timeout)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	server := http.Server{
		Handler:                      p,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            timeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		ConnState:                    p.noteState,
		ErrorLog:                     p.log,
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		Protocols:                    protocols,
	}
	a.conn.SetDeadline(time.Time{})         // the server sets its own
	_ = server.Serve(&single{conn: p.conn}) // returns before the connection has ended
	<-p.ended
	return p.err
}

// single is a listener with one connection.
type single struct{ conn net.Conn }

func (l *single) Accept() (net.Conn, error) {
	c := l.conn
	if c == nil {
		return nil, net.ErrClosed
	}
	l.conn = nil
	return c, nil
}

func (l *single) Addr() net.Addr { return nil }
func (l *single) Close() error   { return nil }

// httpConn is an app's connection while an HTTP server has it.
type httpConn struct {
	relay.Conn
	in       *bufio.Reader // of Conn
	upgraded atomic.Bool   // the server has nothing to do with it any more
	broken   atomic.Bool   // a clean end would be a lie
}

func (c *httpConn) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && c.upgraded.Load() {
		c.broken.Store(true)
	}
	return n, err
}

// Close resets a connection whose end came too early: HTTP has responses that
// nothing but a clean end tells complete.
func (c *httpConn) Close() error {
	if c.broken.Load() {
		return c.Reset()
	}
	return c.Conn.Close()
}

// proxy answers the requests of one app, one after another.
type proxy struct {
	app      *app
	conn     *httpConn
	log      *log.Logger
	hijacked bool
	ended    chan struct{} // closed when the connection has ended
	err      error         // how it ended, if it was relayed

	newForwarder func(*guest) *forwarder
	forward      *forwarder // nil before it is needed
}

func (p *proxy) noteState(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateHijacked:
		p.hijacked = true
	case http.StateClosed:
		close(p.ended)
	}
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p.hijacked {
			close(p.ended)
		}
	}()
	// A request for a path is meant for a web server. It comes from somebody
	// who took this port for one, or from a web page that tries its luck.
	if r.Method != http.MethodConnect && !r.URL.IsAbs() {
		p.decline(w, http.StatusBadRequest, hint)
		return
	}
	if p.app.entry == refused {
		p.decline(w, http.StatusForbidden, "This proxy is for another user.\n")
		return
	}
	g := p.admit(r)
	if g == nil {
		w.Header().Set("Proxy-Authenticate", `Basic realm="adit", charset="UTF-8"`)
		p.answer(w, http.StatusProxyAuthRequired, "This proxy asks for a user and a password.\n")
		return
	}
	dst, err := destination(r)
	if err != nil {
		p.decline(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	p.app.door.Log.Debug("app asks for a connection", "app", p.app.source, "method", r.Method, "target", dst)
	if r.Method == http.MethodConnect {
		p.tunnel(w, r, g, dst)
		return
	}
	p.forwarderFor(g).ServeHTTP(w, r)
}

// answer answers in plain text. Whatever body the request has must come soon.
func (p *proxy) answer(w http.ResponseWriter, status int, text string) {
	// If there can be no deadline, the connection has ended.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(p.app.door.HandshakeTimeout))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // whoever has gone misses nothing
}

// decline answers and ends the connection, so that nothing that follows is
// taken for a request.
func (p *proxy) decline(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Connection", "close")
	p.answer(w, status, text)
}

// admit gives nil unless the request may be carried out.
func (p *proxy) admit(r *http.Request) *guest {
	if g := p.app.enter(); g != nil {
		return g
	}
	said := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	user, password, ok := said.BasicAuth()
	if !ok {
		return nil
	}
	return p.app.login(r.Context(), user, password)
}

// destination gives the target that a request names. Host, which a web page
// has a hand in, does not count.
func destination(r *http.Request) (Addr, error) {
	if r.Method == http.MethodConnect {
		if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
			return Addr{}, errors.New("CONNECT has no body")
		}
		dst, err := ParseAddr(r.RequestURI)
		if err == nil && dst.Port == 0 {
			err = errNoPort
		}
		return dst, err
	}
	if r.URL.Scheme != "http" {
		return Addr{}, fmt.Errorf("scheme %q is not forwarded: only http is", r.URL.Scheme)
	}
	port := uint64(80)
	if s := r.URL.Port(); s != "" {
		var err error
		if port, err = strconv.ParseUint(s, 10, 16); err != nil {
			return Addr{}, fmt.Errorf("parse port: %w", err)
		}
	}
	if port == 0 {
		return Addr{}, errNoPort
	}
	return NewAddr(r.URL.Hostname(), uint16(port))
}

var errNoPort = errors.New("port is zero")

// fail answers a request that could not be carried out.
func (p *proxy) fail(w http.ResponseWriter, err error) {
	code := CodeOf(err)
	p.answer(w, code.status(), code.Error()+"\n")
}

// tunnel carries out CONNECT. The server cancels the request if the app goes
// away meanwhile without having sent anything.
func (p *proxy) tunnel(w http.ResponseWriter, r *http.Request, g *guest, dst Addr) {
	target, _, err := g.connect(r.Context(), Request{Command: Connect, Dst: dst, Dialect: HTTPConnect})
	if err != nil {
		p.fail(w, err)
		return
	}
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		target.Reset()
		return
	}
	conn := p.app.conn
	conn.SetDeadline(time.Now().Add(answerTimeout))
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		target.Reset()
		conn.Reset()
		return
	}
	conn.SetDeadline(time.Time{})
	ahead := append(readAhead(buffered.Reader), readAhead(p.conn.in)...)
	p.err = relay.Copy(r.Context(), relay.WithPrefix(conn, ahead), target).Err
}

// forwarderFor gives the forwarder of a guest. An app that comes back as somebody
// else gets other connections to the targets.
func (p *proxy) forwarderFor(g *guest) http.Handler {
	if p.forward == nil || p.forward.guest.user != g.user {
		p.forward.stop()
		p.forward = p.newForwarder(g)
	}
	return p.forward
}

// status is the code in HTTP.
func (c Code) status() int {
	switch c {
	case Succeeded:
		return http.StatusOK
	case NotAllowed:
		return http.StatusForbidden
	case TTLExpired, TimedOut:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}
