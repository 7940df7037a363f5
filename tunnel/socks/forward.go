package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// forwarder carries out the plain HTTP requests of one guest on one of its
// connections.
type forwarder struct {
	guest     *guest
	conn      *httpConn
	cancel    context.CancelFunc // ends the dials
	dials     sync.RWMutex       // read-locked by each dial under way
	transport *http.Transport
	handler   *httputil.ReverseProxy
}

// newForwarder makes a forwarder whose dials end with ctx, or when it is
// stopped.
func newForwarder(ctx context.Context, p *proxy, g *guest) *forwarder {
	ctx, cancel := context.WithCancel(ctx)
	f := &forwarder{guest: g, conn: p.conn, cancel: cancel}
	f.transport = &http.Transport{
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			return f.dial(ctx, address)
		},
		DisableCompression:     true, // the app gets what it has asked for
		MaxIdleConns:           4,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHeader,
	}
	f.handler = &httputil.ReverseProxy{
		Rewrite:       keepAsItWas,
		Transport:     f,
		FlushInterval: -1, // it is for the target to say when bytes come
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, err error) { p.fail(w, err) },
		ErrorLog:      p.log,
	}
	return f
}

// stop ends dials under way and drops idle connections.
func (f *forwarder) stop() {
	if f == nil {
		return
	}
	f.cancel()
	f.dials.Lock()
	defer f.dials.Unlock()
	f.transport.CloseIdleConnections()
}

// dial gives a conn that connects when the request is written. The transport closes
// it if the request is given up meanwhile.
func (f *forwarder) dial(ctx context.Context, address string) (net.Conn, error) {
	dst, err := ParseAddr(address)
	if err != nil {
		return nil, err
	}
	ctx, giveUp := context.WithCancel(ctx)
	connect := func(first []byte) (relay.Conn, error) {
		f.dials.RLock()
		defer f.dials.RUnlock()
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		conn, _, err := f.guest.connect(ctx, Request{Command: Connect, Dst: dst, Dialect: HTTPForward, Initial: first})
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		return conn, nil
	}
	return &earlyConn{connect: connect, giveUp: giveUp, ready: make(chan struct{})}, nil
}

// keepAsItWas undoes what a [httputil.ReverseProxy] changes in requests, which
// befits the front of a web server. Here they are the app's own words.
func keepAsItWas(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if said := r.In.Header[name]; said != nil {
			r.Out.Header[name] = slices.Clone(said)
		}
	}
}

// ServeHTTP carries out one request.
func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	complete := false
	defer func() {
		if !complete { // it panics to abort a response
			f.conn.broken.Store(true)
		}
	}()
	f.handler.ServeHTTP(w, r)
	complete = true
}

// RoundTrip asks the target. If that switches protocols, as for a WebSocket,
// the response's body becomes one that tells a reset from a clean end.
func (f *forwarder) RoundTrip(r *http.Request) (*http.Response, error) {
	var target relay.Conn
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { target, _ = i.Conn.(relay.Conn) },
	})
	resp, err := f.transport.RoundTrip(r.WithContext(ctx))
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return resp, err
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || target == nil {
		return resp, nil // the reverse proxy refuses it
	}
	f.conn.upgraded.Store(true)
	resp.Body = &upgraded{body: body, target: target, app: f.conn}
	return resp, nil
}

// upgraded is a target's connection after it has switched protocols. If either
// end breaks, so does the other.
type upgraded struct {
	body   io.ReadWriteCloser // of target, with what was read ahead
	target relay.Conn
	app    *httpConn
}

func (u *upgraded) Read(b []byte) (int, error) {
	n, err := u.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		u.app.broken.Store(true)
	}
	return n, err
}

func (u *upgraded) Write(b []byte) (int, error) {
	n, err := u.body.Write(b)
	if err != nil {
		u.app.broken.Store(true)
	}
	return n, err
}

func (u *upgraded) CloseWrite() error { return u.target.CloseWrite() }

func (u *upgraded) Close() error {
	if u.app.lies() {
		u.target.Reset()
	}
	return u.body.Close()
}
