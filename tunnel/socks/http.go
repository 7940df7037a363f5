package socks

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	maxHeader = 64 << 10 // bytes in the header of a request or response

	// idleTimeout is how long an app may keep its connection between two
	// requests.
	idleTimeout = 2 * time.Minute

	maxRefusals = 8 // for want of a password, on one connection

	hint = "This port is adit's proxy, and has no pages. Set it as the proxy of your program.\n"
)

// http serves an app that speaks HTTP: CONNECT, and requests with a whole
// "http://" URL. Every app's connection has a server of its own, so that none
// sees anything of another.
func (a *app) http(ctx context.Context) error {
	stopped := ctx.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timeout := a.door.HandshakeTimeout
	if a.entry == refused {
		timeout = min(refusedTimeout, timeout)
	}
	p := &proxy{
		app:   a,
		conn:  &httpConn{Conn: a.conn, in: a.in, timeout: timeout, stopped: stopped},
		log:   slog.NewLogLogger(a.door.Log.Handler(), slog.LevelDebug),
		ended: make(chan struct{}),
	}
	p.newForwarder = func(g *guest) *forwarder { return newForwarder(ctx, p, g) }

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
	p.forward.stop()
	if p.tunnel == nil || p.err != nil {
		return p.err
	}
	return p.tunnel(ctx)
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

// proxy answers the requests of one app, one after another.
type proxy struct {
	app      *app
	conn     *httpConn
	log      *log.Logger
	hijacked bool
	refusals int           // requests without the right password
	ended    chan struct{} // closed when the server is done with the connection
	err      error         // why the server could not be left

	tunnel func(context.Context) error // goes on after a CONNECT

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
		if p.servePAC(w, r) {
			return
		}
		p.decline(w, http.StatusBadRequest, hint)
		return
	}
	if p.app.entry == refused {
		p.decline(w, http.StatusForbidden, "This proxy is for another user.\n")
		return
	}
	g := p.admit(r)
	if g == nil {
		p.askPassword(w)
		return
	}
	p.conn.admit()
	dst, err := destination(r)
	if err != nil {
		p.decline(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	if r.Method == http.MethodConnect {
		p.err = p.leave(w)
		p.tunnel = func(ctx context.Context) error {
			return p.app.carry(ctx, g, &Request{Command: Connect, Dst: dst, Dialect: HTTPConnect}, answerConnect)
		}
		return
	}
	p.app.door.Log.Debug("app asks for a page", "app", p.app.source, "target", dst)
	p.forwarderFor(g).ServeHTTP(w, r)
}

// answer answers in plain text.
func (p *proxy) answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // whoever has gone misses nothing
}

// askPassword lets an app try again on the same connection, as many of them
// send no password before they are asked for it.
func (p *proxy) askPassword(w http.ResponseWriter) {
	if p.refusals++; p.refusals == maxRefusals {
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("Proxy-Authenticate", `Basic realm="adit", charset="UTF-8"`)
	p.answer(w, http.StatusProxyAuthRequired, "This proxy asks for a user and a password.\n")
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
		if r.RequestURI != r.URL.Host {
			return Addr{}, errors.New("CONNECT takes host:port and nothing else")
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

// leave takes the connection from the server, which is no use to a tunnel. All
// that was read ahead goes back to where the app's handshake is read from.
func (p *proxy) leave(w http.ResponseWriter) error {
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection: %w", err)
	}
	ahead := append(readAhead(buffered.Reader), readAhead(p.app.in)...)
	in := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(ahead), p.app.conn), len(ahead)+aheadBytes)
	_, err = in.Peek(len(ahead))
	p.app.in = in
	return err
}

// answerConnect gives the whole response to CONNECT.
func answerConnect(r Reply) []byte {
	c := r.Code
	if c == Succeeded {
		return []byte("HTTP/1.1 200 Connection established\r\n\r\n")
	}
	status, body := c.status(), c.Error()+"\n"
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
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
