package ipseclink

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/crypto/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// house is a server that answers whatever opening comes, and then echoes.
type house struct {
	key      *keys.Server
	address  string
	arrivals chan Arrival
	answer   []byte
	serve    func(context.Context, net.Conn)
}

func newHouse(t *testing.T, answer []byte) *house {
	t.Helper()
	return serveHouse(t, answer, nil, func(ctx context.Context, conn net.Conn) {
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		_, _ = io.Copy(conn, conn)
	})
}

// serveHouse makes one that does something else with connections, and has datagrams beside.
func serveHouse(t *testing.T, answer []byte, datagrams Protect, serve func(context.Context, net.Conn)) *house {
	t.Helper()
	key, err := keys.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{key: key, address: ln.Addr().String(), arrivals: make(chan Arrival, 100), answer: answer, serve: serve}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := (&Server{Key: key, Datagrams: datagrams}).Serve(ctx, ln, h.admit); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); serving.Wait() })
	return h
}

func (h *house) admit(_ context.Context, a Arrival) ([]byte, func(context.Context, net.Conn)) {
	h.arrivals <- a
	return h.answer, h.serve
}

// dialer gives one whose path is always protected, until lose is called.
func (h *house) dialer(pin keys.Pin) (d *Dialer, lose func()) {
	var lost atomic.Pointer[func()]
	return &Dialer{
		Address: h.address,
		Pin:     pin,
		Control: func(context.Context, string, string, syscall.RawConn) error { return nil },
		Watch: func(_ context.Context, _, _ netip.AddrPort, f func()) func() {
			lost.Store(&f)
			return func() {}
		},
	}, func() { (*lost.Load())() }
}

func TestBothEndsAgreeOnAConnectionThatNoOtherIs(t *testing.T) {
	answer := bytes.Repeat([]byte{2}, AnswerSize)
	h := newHouse(t, answer)
	d, lose := h.dialer(h.key.Pin())
	channels := make(map[[32]byte]bool)
	for range 2 {
		c, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		opening := bytes.Repeat([]byte{1}, OpeningSize)
		conn, got, err := c.Attach(t.Context(), opening)
		if err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("%x, %v", got, err)
		}
		a := <-h.arrivals
		if !bytes.Equal(a.Opening, opening) || a.Server != c.Server() || a.Server != h.key.Pin() || a.Channel != c.Channel() || a.Local.String() != h.address {
			t.Errorf("the server sees %+v, the client %x at %x", a, c.Channel(), c.Server())
		}
		channels[a.Channel] = true
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		word := make([]byte, 5)
		if _, err := io.ReadFull(conn, word); err != nil || string(word) != "hello" {
			t.Errorf("%q, %v", word, err)
		}
		lose()
		if _, err := conn.Read(word); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the path's protection it reads %v", err)
		}
		conn.Close()
	}
	if len(channels) != 2 {
		t.Error("two connections have the same name")
	}
}

func TestOnlyThePinnedServerWillDo(t *testing.T) {
	h := newHouse(t, nil)
	d, _ := h.dialer(keys.Pin{1})
	if _, err := d.Dial(t.Context()); !errors.Is(err, ErrWrongPin) {
		t.Errorf("with another pin: %v", err)
	}
	unprotected := errors.New("nothing protects it")
	d, _ = h.dialer(h.key.Pin())
	d.Control = func(context.Context, string, string, syscall.RawConn) error { return unprotected }
	if _, err := d.Dial(t.Context()); !errors.Is(err, unprotected) {
		t.Errorf("without protection: %v", err)
	}
}

func TestOpeningThatIsNotTakenGetsNoAnswer(t *testing.T) {
	h := newHouse(t, nil)
	d, _ := h.dialer(h.key.Pin())
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if conn, answer, err := c.Attach(t.Context(), make([]byte, OpeningSize)); err == nil {
		t.Errorf("%v, %x", conn, answer)
	}
}

func TestWhoSpeaksSomethingElseIsTurnedAway(t *testing.T) {
	h := newHouse(t, nil)
	c, err := net.Dial("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 10)[:callSize]); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(c); len(b) > 0 {
		t.Errorf("it hears %q", b)
	}
}

// scarce is a listener on a machine that has no file descriptors left for a while.
type scarce struct {
	net.Listener
	fails atomic.Int32 // that are left
}

func (l *scarce) Accept() (net.Conn, error) {
	if l.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestServerOutlivesAShortageOfFiles(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	short := &scarce{Listener: ln}
	short.fails.Store(3)
	key, err := keys.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := (&Server{Key: key}).Serve(ctx, short, nil); err != nil {
			t.Error(err)
		}
	})
	defer serving.Wait()
	defer cancel()
	d, _ := (&house{address: ln.Addr().String()}).dialer(key.Pin())
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// What a server shows for one client's nonce is worth nothing for another's.
func TestShowIsForOneConnection(t *testing.T) {
	key, err := keys.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	mine, others := [nonceSize]byte{1}, [nonceSize]byte{2}
	b, err := show(nonces{client: mine, server: [nonceSize]byte{3}}, key)
	if err != nil || len(b) != showSize {
		t.Fatalf("%x, %v", b, err)
	}
	if _, err := check(b, mine, key.Pin()); err != nil {
		t.Error(err)
	}
	if _, err := check(b, others, key.Pin()); err == nil {
		t.Error("another client believes it")
	}
	for at := range b {
		changed := bytes.Clone(b)
		changed[at] ^= 1
		if _, err := check(changed, mine, key.Pin()); err == nil && at < proofAt+1+int(b[proofAt]) {
			t.Errorf("it is believed with another byte %d", at)
		}
	}
}

func TestProtocolSaysTheSame(t *testing.T) {
	text, err := os.ReadFile("../../tunnel/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{hex.EncodeToString([]byte(magic)), `"` + serverLabel + `"`, `"` + carrierLabel + `"`, `"` + datagramLabel + `"`} {
		if !strings.Contains(string(text), word) {
			t.Errorf("it does not say %s", word)
		}
	}
	if callSize != 8+32 || showSize != 32+65+1+72 {
		t.Errorf("the messages have %d and %d bytes", callSize, showSize)
	}
}

func FuzzShow(f *testing.F) {
	key, err := keys.NewServer()
	if err != nil {
		f.Fatal(err)
	}
	b, err := show(nonces{}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(make([]byte, showSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != showSize {
			return
		}
		if n, err := check(b, [nonceSize]byte{}, key.Pin()); err == nil && n.server != [nonceSize]byte(b) {
			t.Error("it takes another nonce for the server's")
		}
	})
}
