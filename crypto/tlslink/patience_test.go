package tlslink

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are in memory, for virtual time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.done) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return pipeAddr{} }

func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.conns <- b
	return a
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// slow is somebody who does something and then nothing, or next to nothing.
type slow struct {
	alpn []string // nil: no TLS
	send []byte
	drip byte // sent every 5 s
}

func slowPeople() map[string]slow {
	half := flight(opening())[:200]
	bad := flight(make([]byte, OpeningSize))
	request := []byte("GET / HTTP/1.1\r\nHost: a\r\n")
	hello := []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	return map[string]slow{
		"says nothing":                                   {},
		"says one byte":                                  {send: hello[:1]},
		"says half a ClientHello":                        {send: hello},
		"drips a ClientHello":                            {send: hello, drip: 1},
		"says nothing after the handshake":               {alpn: alpn[:]},
		"says nothing after the handshake, no ALPN":      {alpn: []string{}},
		"says half a preface":                            {alpn: alpn[:], send: half[:10]},
		"says a preface":                                 {alpn: alpn[:], send: half[:len(preface)]},
		"says half of SETTINGS":                          {alpn: alpn[:], send: half[:len(preface)+20]},
		"says SETTINGS":                                  {alpn: alpn[:], send: half[:len(preface)+frameHeader+len(chromeSettings)]},
		"says half an opening":                           {alpn: alpn[:], send: half},
		"drips an opening":                               {alpn: alpn[:], send: half, drip: 1},
		"says an opening that is not genuine":            {alpn: alpn[:], send: bad},
		"says an opening that is not genuine, and drips": {alpn: alpn[:], send: bad, drip: 1},
		"says half a request":                            {alpn: alpn[1:], send: request},
		"drips a request":                                {alpn: alpn[1:], send: request, drip: 'x'},
		"says a request and stays":                       {alpn: alpn[1:], send: append(request, "\r\n"...)},
	}
}

// outlast tells how long a server bears with somebody.
func (s slow) outlast(ln *pipes) time.Duration {
	begun := time.Now()
	c := ln.dial()
	defer c.Close()
	if s.alpn != nil {
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: s.alpn})
		if err := t.Handshake(); err != nil {
			return -1
		}
		c = t
	}
	var talking sync.WaitGroup
	gone := make(chan struct{})
	talking.Go(func() {
		_, err := c.Write(s.send)
		for err == nil && s.drip != 0 {
			select {
			case <-time.After(5 * time.Second):
				_, err = c.Write([]byte{s.drip})
			case <-gone:
				return
			}
		}
	})
	_, _ = io.Copy(io.Discard, c) // any end will do
	took := time.Since(begun)
	close(gone)
	_ = c.Close()
	talking.Wait()
	return took
}

func TestSlowStrangersAreBorneWithAsLongAsByAWebSite(t *testing.T) {
	_, cert := newCertificate(t, "exit.test")
	for name, who := range slowPeople() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ours, theirs := newPipes(), newPipes()
				s := &Server{GetCertificate: always(&cert), Site: testSite(), HandshakeTimeout: 7 * time.Second}
				ref := reference(testSite(), &cert, 7*time.Second)
				var serving sync.WaitGroup
				serving.Go(func() {
					if err := s.Serve(ctx, ours, nobody); err != nil {
						t.Error(err)
					}
				})
				serving.Go(func() {
					if err := ref.ServeTLS(theirs, "", ""); err != http.ErrServerClosed {
						t.Error(err)
					}
				})
				got, want := who.outlast(ours), who.outlast(theirs)
				if got != want || got < time.Second || got > 2*time.Minute {
					t.Errorf("the server bears it for %v, a web site for %v", got, want)
				}
				cancel()
				_ = ref.Close()
				serving.Wait()
			})
		})
	}
}

// carry opens a carrier in virtual time.
func carry(t *testing.T, ln *pipes) *tls.Conn {
	t.Helper()
	c := tls.Client(ln.dial(), &tls.Config{InsecureSkipVerify: true, NextProtos: alpn[:]})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = c.Write(flight(opening())) }()
	if _, err := readAnswer(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServeEndsWithStuckPeersAndStubbornSessions(t *testing.T) {
	_, cert := newCertificate(t, "exit.test")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ln := newPipes()
		served := make(chan error, 1)
		s := &Server{GetCertificate: always(&cert)}
		go func() {
			served <- s.Serve(ctx, ln, genuine(func(_ context.Context, c net.Conn) {
				for { // does not care for its context
					if _, err := c.Write(make([]byte, burst)); err != nil {
						return
					}
				}
			}))
		}()
		defer ln.dial().Close() // somebody who says nothing
		halfway := tls.Client(ln.dial(), &tls.Config{InsecureSkipVerify: true, NextProtos: alpn[:]})
		if err := halfway.Handshake(); err != nil {
			t.Fatal(err)
		}
		defer halfway.NetConn().Close()
		defer carry(t, ln).NetConn().Close() // somebody who does not read
		synctest.Wait()
		begun := time.Now()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > stopTimeout+time.Second {
			t.Errorf("Serve ended after %v", took)
		}
	})
}

func TestSessionsAreToldThatTheServerStops(t *testing.T) {
	_, cert := newCertificate(t, "exit.test")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ln := newPipes()
		served := make(chan error, 1)
		s := &Server{GetCertificate: always(&cert)}
		go func() {
			served <- s.Serve(ctx, ln, genuine(func(ctx context.Context, c net.Conn) {
				<-ctx.Done()
				time.Sleep(time.Second) // goodbyes take their time
				_, _ = c.Write([]byte("bye"))
			}))
		}()
		c := carry(t, ln)
		defer c.Close()
		begun := time.Now()
		cancel()
		if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if err := <-served; err != nil || time.Since(begun) > 2*time.Second {
			t.Errorf("Serve ended after %v: %v", time.Since(begun), err)
		}
	})
}

func TestAdmittedCarrierHasNoTimeOuts(t *testing.T) {
	_, cert := newCertificate(t, "exit.test")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ln := newPipes()
		served := make(chan error, 1)
		s := &Server{GetCertificate: always(&cert)}
		go func() { served <- s.Serve(ctx, ln, genuine(echo)) }()
		c := carry(t, ln)
		time.Sleep(24 * time.Hour)
		go func() { _, _ = c.Write([]byte("still here")) }()
		buf := make([]byte, 10)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "still here" {
			t.Errorf("got %q, %v", buf, err)
		}
		_ = c.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func TestAdmissionThatOutlastsItsConnectionComesToNothing(t *testing.T) {
	_, cert := newCertificate(t, "exit.test")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ln := newPipes()
		served := make(chan error, 1)
		s := &Server{GetCertificate: always(&cert)}
		go func() {
			served <- s.Serve(ctx, ln, func(context.Context, Arrival) ([]byte, func(context.Context, net.Conn)) {
				time.Sleep(3 * siteIdle)
				return answer(), func(context.Context, net.Conn) { t.Error("a dead carrier is served") }
			})
		}()
		c := tls.Client(ln.dial(), &tls.Config{InsecureSkipVerify: true, NextProtos: alpn[:]})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = c.Write(flight(opening())) }()
		if _, err := readAnswer(c); err == nil {
			t.Error("an answer came")
		}
		_ = c.Close()
		time.Sleep(4 * siteIdle)
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
