package socks

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

func addr(t testing.TB, s string) net.Addr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// openDoor serves a door at a loopback port for as long as the test lasts, and
// gives its address.
func openDoor(t testing.TB, d *Door) string {
	t.Helper()
	if runtime.GOOS != "linux" && d.Admission.Authenticate == nil {
		d.Admission.Anyone = true // no other system tells users apart
	}
	ln := listen(t, "127.0.0.1:0")
	serve(t, d, ln)
	return ln.Addr().String()
}

func serve(t testing.TB, d *Door, ln net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// dial connects an app or a target. Nothing on the connection lasts longer than
// patience.
func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// accept takes the next connection of a target.
func accept(t testing.TB, ln net.Listener) *net.TCPConn {
	t.Helper()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

func send(t testing.TB, c io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// expect reads exactly want.
func expect(t testing.TB, c io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); string(b[:n]) != want {
		t.Fatalf("read %q (%v), want %q", b[:n], err, want)
	}
}

// expectEnd reads a clean end.
func expectEnd(t testing.TB, c io.Reader) {
	t.Helper()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Fatalf("read %q (%v), want a clean end", b, err)
	}
}

// expectReset reads an end that is not clean.
func expectReset(t testing.TB, c io.Reader) {
	t.Helper()
	if b, err := io.ReadAll(c); len(b) > 0 || CodeOf(err) != ConnectionRefused {
		t.Fatalf("read %q (%v), want a reset", b, err)
	}
}

// through connects by SOCKS 5 through a door and gives the app's end.
func through(t testing.TB, door, target string) *net.TCPConn {
	t.Helper()
	c := dial(t, door)
	send(t, c, "\x05\x01\x00"+request5(t, target))
	expect(t, c, "\x05\x00\x05\x00\x00\x01")
	expect(t, c, string(make([]byte, 6))) // direct tells no address
	return c
}

// request5 gives a CONNECT to an address in bytes.
func request5(t testing.TB, target string) string {
	t.Helper()
	a := unmapped(addr(t, target).(*net.TCPAddr).AddrPort())
	b := append([]byte{5, 1, 0, 1}, a.Addr().AsSlice()...)
	return string(append(b, byte(a.Port()>>8), byte(a.Port())))
}

// direct is a relay that dials.
type direct struct{ Unserved }

func (direct) Connect(ctx context.Context, r Request) (relay.Conn, Reply, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", r.Dst.String())
	if err != nil {
		return nil, Reply{}, err
	}
	if _, err := c.Write(r.Initial); err != nil {
		c.Close()
		return nil, Reply{}, err
	}
	return relay.TCP(c.(*net.TCPConn)), Reply{}, nil
}

// never is a relay that must not be asked.
type never struct {
	Unserved
	t testing.TB
}

func (n never) Connect(_ context.Context, r Request) (relay.Conn, Reply, error) {
	n.t.Errorf("the relay is asked for %v to %v", r.Dialect, r.Dst)
	return nil, Reply{}, NotAllowed
}

// patient is a relay that connects when it is told to, and tells what happens.
type patient struct {
	Unserved
	asked   chan Request
	connect chan relay.Conn
	gaveUp  chan error
}

func newPatient() *patient {
	return &patient{asked: make(chan Request, 1), connect: make(chan relay.Conn, 1), gaveUp: make(chan error, 1)}
}

func (p *patient) Connect(ctx context.Context, r Request) (relay.Conn, Reply, error) {
	p.asked <- r
	select {
	case c := <-p.connect:
		return c, Reply{}, nil
	case <-ctx.Done():
		p.gaveUp <- context.Cause(ctx)
		return nil, Reply{}, ctx.Err()
	}
}

// receive waits for what must come.
func receive[T any](t testing.TB, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatal("waited in vain")
	}
	return v
}

// lines is what a test's log is written to.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) contain(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}

// duplex is one end of a connection in memory.
type duplex struct{ net.Conn }

func newDuplex() (a, b duplex) {
	x, y := net.Pipe()
	return duplex{x}, duplex{y}
}

func (d duplex) CloseWrite() error { return d.Close() }
func (d duplex) Reset() error      { return d.Close() }

// oneListener accepts one connection in memory, as if over loopback.
type oneListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newOneListener(c net.Conn) *oneListener {
	l := &oneListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conns <- c
	return l
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (l *oneListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
