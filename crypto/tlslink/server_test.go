package tlslink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOldestStrangerGoesWhenThereIsNoRoom(t *testing.T) {
	const room, strangers = 8, 20
	e := start(t, &Server{MaxHandshakes: room}, genuine(echo))
	carrier := e.attach(t, "go") // has been admitted: does not count
	defer carrier.Close()
	var crowd []net.Conn
	for range strangers {
		c, err := net.Dial("tcp", e.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		crowd = append(crowd, c)
	}
	for i, c := range crowd[:strangers-room] {
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("stranger %d: %v", i, err)
		}
	}
	for i, c := range crowd[strangers-room:] {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
			t.Errorf("stranger %d had to go: %v", strangers-room+i, err)
		}
	}
	// Amid the crowd, genuine clients come and go.
	for range 2 * room {
		conn := e.attach(t, "chrome")
		roundTrip(t, conn, 1000)
		defer conn.Close()
	}
	roundTrip(t, carrier, 1000)
}

func TestLobbyForgetsWhoIsGone(t *testing.T) {
	l := &lobby{limit: 3, all: map[*visitor]struct{}{}}
	var below []*counted
	enter := func() *visitor {
		a, b := net.Pipe()
		t.Cleanup(func() { _ = b.Close() })
		below = append(below, &counted{Conn: a})
		return l.enter(below[len(below)-1])
	}
	first, second := enter(), enter()
	l.admit(first)
	l.admit(first)
	if err := errors.Join(second.Close(), second.Close()); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	for range 3 {
		enter()
	}
	if l.waiting.Len() != 3 || len(l.all) != 4 {
		t.Errorf("%d wait, of %d", l.waiting.Len(), len(l.all))
	}
	l.close()
	late := enter()
	if l.waiting.Len() != 0 || len(l.all) != 1 || first.closed.Load() || !late.closed.Load() {
		t.Errorf("after close %d wait, of %d", l.waiting.Len(), len(l.all))
	}
	l.closeAll()
	l.closeAll()
	if len(l.all) != 0 {
		t.Errorf("after closeAll there are %d", len(l.all))
	}
	for i, c := range below {
		if n := c.closes.Load(); n != 1 {
			t.Errorf("connection %d was closed %d times", i, n)
		}
	}
}

// What strangers hold is measured for both ends together, as both run here.
func TestStrangersHoldLittleMemory(t *testing.T) {
	const strangers, limit = 200, 64 << 10
	for name, send := range map[string][]byte{
		"after the handshake":  nil,
		"after SETTINGS":       flight(opening())[:len(preface)+frameHeader+len(chromeSettings)],
		"within an opening":    flight(opening())[:200],
		"within a request":     append(flight(make([]byte, OpeningSize)), get("POST", "/echo", 1, false)...),
		"within a huge frame":  append(flight(make([]byte, OpeningSize)), "\x00\x40\x00\xad\x00\x00\x00\x00\x00"...),
		"before the handshake": []byte("\x16\x03\x01\x40\x00" + strings.Repeat("x", 8000)),
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, &Server{Site: testSite()}, genuine(echo))
			before := heap()
			var crowd []net.Conn
			for range strangers {
				c, err := net.Dial("tcp", e.address)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if !strings.HasPrefix(name, "before") {
					tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn[:]})
					if err := tc.HandshakeContext(t.Context()); err != nil {
						t.Fatal(err)
					}
					c = tc
				}
				if _, err := c.Write(send); err != nil {
					t.Fatal(err)
				}
				crowd = append(crowd, c)
			}
			each := settled(before) / strangers
			if t.Logf("%d bytes each", each); each > limit {
				t.Errorf("each holds %d bytes, more than %d", each, limit)
			}
			runtime.KeepAlive(crowd)
		})
	}
}

func heap() int {
	runtime.GC()
	runtime.GC() // what the first put into the pools' second chance
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// settled gives the growth of the heap when it grows no more: the server may
// still be at work on what it was sent.
func settled(before int) int {
	for last := heap(); ; {
		time.Sleep(50 * time.Millisecond)
		now := heap()
		if now-last < 1<<16 {
			return now - before
		}
		last = now
	}
}

func TestTicketsAreIssuedAndAllowNoEarlyData(t *testing.T) {
	e := start(t, &Server{}, nobody)
	cache := &tickets{}
	c, err := tls.Dial("tcp", e.address, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn[:], ClientSessionCache: cache})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, make([]byte, frameHeader)); err != nil {
		t.Fatal(err)
	}
	if cache.put == nil {
		t.Fatal("no ticket came") // which would tell the server from others
	}
	_, state, err := cache.put.ResumptionState()
	if err != nil || state.EarlyData {
		t.Errorf("early data %v, %v", state.EarlyData, err)
	}
}

type tickets struct{ put *tls.ClientSessionState }

func (c *tickets) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *tickets) Put(_ string, s *tls.ClientSessionState)    { c.put = s }

func TestBrokenAdmissionIsAClosedConnection(t *testing.T) {
	e := start(t, &Server{}, func(context.Context, Arrival) ([]byte, func(context.Context, net.Conn)) {
		return []byte("not an answer"), echo
	})
	if _, _, err := e.dial(t, "go").Attach(t.Context(), opening()); err == nil || errors.Is(err, ErrWebsite) {
		t.Errorf("attach: %v", err)
	}
}

func TestOpeningWithoutPingIsAClosedConnection(t *testing.T) {
	e := start(t, &Server{}, genuine(echo))
	c := e.dial(t, "go")
	b := flightWith(opening())
	b[len(b)-pingSize-frameHeader+3] = frameSettings
	if _, err := c.conn.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := readAnswer(c.conn); err == nil || errors.Is(err, ErrWebsite) {
		t.Errorf("answer: %v", err)
	}
}

func TestSessionMayFollowItsOpeningAtOnce(t *testing.T) {
	e := start(t, &Server{}, genuine(echo))
	c := e.dial(t, "go")
	if _, err := c.conn.Write(append(flight(opening()), "hello"...)); err != nil {
		t.Fatal(err)
	}
	if _, err := readAnswer(c.conn); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c.conn, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

// broken is a listener that fails when it is told to.
type broken struct {
	net.Listener
	err error
}

func (l *broken) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		err = l.err
	}
	return c, err
}

func TestServeFailsWithItsListener(t *testing.T) {
	key, cert := newCertificate(t, "exit.test")
	ln := &broken{listen(t), errors.New("the network is gone")}
	served := make(chan error, 1)
	ended := make(chan struct{})
	s := &Server{GetCertificate: always(&cert)}
	go func() {
		served <- s.Serve(context.Background(), ln, genuine(func(ctx context.Context, _ net.Conn) {
			<-ctx.Done()
			close(ended)
		}))
	}()
	e := &exit{address: ln.Addr().String(), key: key}
	defer e.attach(t, "go").Close()
	_ = ln.Close()
	if err := <-served; !errors.Is(err, ln.err) {
		t.Errorf("Serve: %v", err)
	}
	<-ended
}

func TestCarriersOutliveAListenerThatIsClosed(t *testing.T) {
	key, cert := newCertificate(t, "exit.test")
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	s := &Server{GetCertificate: always(&cert)}
	go func() { served <- s.Serve(ctx, ln, genuine(echo)) }()
	e := &exit{address: ln.Addr().String(), key: key}
	carrier := e.attach(t, "go")
	arrived := e.dial(t, "go") // it has not been admitted yet
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", e.address); err == nil {
		c.Close()
		t.Error("somebody accepts")
	}
	roundTrip(t, carrier, 1000)
	late, _, err := arrived.Attach(t.Context(), opening())
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, late, 1000)
	_, _ = late.Close(), carrier.Close() // the server has seen enough of them
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestRotatedCertificateIsTheOneThatOpeningsAreBoundTo(t *testing.T) {
	_, one := newCertificate(t, "exit.test")
	two, cert := newCertificate(t, "exit.test")
	current := &atomic.Pointer[tls.Certificate]{}
	current.Store(&one)
	arrived := make(chan Arrival, 1)
	e := start(t, &Server{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }},
		func(_ context.Context, a Arrival) ([]byte, func(context.Context, net.Conn)) {
			arrived <- a
			return answer(), nil
		})
	d := e.dialer("go")
	d.Pin = two.Pin()
	if _, err := d.Dial(t.Context()); !errors.Is(err, ErrWrongPin) {
		t.Fatalf("before the change: %v", err)
	}
	current.Store(&cert)
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := c.Attach(t.Context(), opening())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if a := <-arrived; a.Server != two.Pin() {
		t.Errorf("the opening is bound to %x", a.Server)
	}
}

// lines collects what is logged.
type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func TestStrangersAreLoggedAtDebugOnlyAndPanicsAsErrors(t *testing.T) {
	out := &lines{}
	log := newErrorLog(slog.New(slog.NewTextHandler(out, nil)))
	log.Print("http: TLS handshake error from 192.0.2.1:1: EOF")
	if out.Len() != 0 {
		t.Errorf("logged %s", out)
	}
	log.Print("http: panic serving 192.0.2.1:1: oops\ngoroutine 1")
	log.Print("http: Accept error: too many open files; retrying in 1s")
	if got := out.String(); !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "level=WARN") {
		t.Errorf("logged %s", got)
	}
}

// One stuck client holds nobody up, nor do many.
func TestGenuineClientsGetThroughAmidSilentOnes(t *testing.T) {
	e := start(t, &Server{}, genuine(echo))
	for range 300 {
		c, err := net.Dial("tcp", e.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	begun := time.Now()
	conn := e.attach(t, "chrome")
	defer conn.Close()
	roundTrip(t, conn, 1000)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
