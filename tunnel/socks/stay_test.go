package socks

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// guestBook lets users in until it is told not to.
type guestBook struct {
	direct
	came chan *visit
	not  error
}

type visit struct {
	direct
	user string
	done chan struct{}
	left chan struct{}
}

func (v *visit) Done() <-chan struct{} { return v.done }
func (v *visit) Close()                { close(v.left) }

func newGuestBook() *guestBook { return &guestBook{came: make(chan *visit, 8)} }

func (b *guestBook) enter(_ context.Context, e Entry) (Stay, error) {
	if b.not != nil {
		return nil, b.not
	}
	v := &visit{user: e.User, done: make(chan struct{}), left: make(chan struct{})}
	b.came <- v
	return v, nil
}

func TestStayBeginsWithTheLoginAndEndsWithTheConnection(t *testing.T) {
	book := newGuestBook()
	door := openDoor(t, &Door{Enter: book.enter, Admission: Admission{Authenticate: Password("fred", "secret")}})
	target := listen(t, "127.0.0.1:0")
	c := dial(t, door)
	send(t, c, "\x05\x01\x02\x01\x04fred\x06Secret")
	expect(t, c, "\x05\x02\x01\x01")
	c = dial(t, door)
	send(t, c, "\x05\x01\x02\x01\x04fred\x06secret"+request5(t, target.Addr().String()))
	expect(t, c, "\x05\x02\x01\x00\x05\x00")
	v := receive(t, book.came)
	if v.user != "fred" || len(book.came) > 0 {
		t.Errorf("%q came, and %d more", v.user, len(book.came))
	}
	far := accept(t, target)
	far.CloseWrite()
	c.CloseWrite()
	receive(t, v.left)
}

func TestAppsConnectionEndsWithItsStay(t *testing.T) {
	book := newGuestBook()
	door := openDoor(t, &Door{Enter: book.enter, Admission: Admission{Authenticate: Password("fred", "secret")}})
	for _, said := range []string{"", "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"} {
		c := dial(t, door)
		send(t, c, "\x05\x01\x02\x01\x04fred\x06secret")
		expect(t, c, "\x05\x02\x01\x00")
		send(t, c, said)
		v := receive(t, book.came)
		close(v.done)
		if _, err := c.Read(make([]byte, 100)); said == "" && CodeOf(err) != ConnectionRefused {
			t.Errorf("the app reads %v, want a reset", err)
		}
		receive(t, v.left)
	}
}

func TestWhoeverMayNotStayIsNotLetIn(t *testing.T) {
	book := newGuestBook()
	book.not = errors.New("disabled")
	identify := func(_ context.Context, c net.Conn) (string, error) { return "partner", nil }
	for _, d := range []*Door{
		{Enter: book.enter, Admission: Admission{Authenticate: Password("fred", "secret")}},
		{Enter: book.enter, Admission: Admission{Identify: identify}},
	} {
		c := dial(t, openDoor(t, d))
		if d.Admission.Identify == nil {
			send(t, c, "\x05\x01\x02\x01\x04fred\x06secret")
			expect(t, c, "\x05\x02\x01\x01")
		} else {
			send(t, c, "\x05\x01\x00")
			expect(t, c, "\x05\xff")
		}
		expectEnd(t, c)
	}
}

func TestAppIsWhoItsConnectionSays(t *testing.T) {
	book := newGuestBook()
	var who atomic.Value
	who.Store("partner")
	a := Admission{
		Authenticate: Password("fred", "secret"),
		Identify: func(context.Context, net.Conn) (string, error) {
			if who.Load() == "-" {
				return "", errors.New("a foreign network")
			}
			return who.Load().(string), nil
		},
	}
	at := openDoor(t, &Door{Enter: book.enter, Admission: a})
	talk := func(said, heard string) *net.TCPConn {
		t.Helper()
		c := dial(t, at)
		send(t, c, said)
		expect(t, c, heard)
		return c
	}
	const socks4 = "\x04\x01\x00\x00\x7f\x00\x00\x01\x00" // to port 0
	talk("\x05\x01\x00", "\x05\x00").Close()
	if v := receive(t, book.came); v.user != "partner" {
		t.Errorf("%q came", v.user)
	}
	talk(socks4, "\x00\x5b").Close() // it has no port, but somebody asked for it
	if v := receive(t, book.came); v.user != "partner" {
		t.Errorf("%q came", v.user)
	}
	talk("\x05\x01\x02\x01\x04fred\x05wrong", "\x05\x02\x01\x01").Close()
	receive(t, book.came)
	talk("\x05\x01\x02\x01\x04fred\x06secret", "\x05\x02\x01\x00").Close()
	if first, second := receive(t, book.came), receive(t, book.came); first.user != "partner" || second.user != "fred" {
		t.Errorf("%q and %q came", first.user, second.user)
	}
	who.Store("")
	talk("\x05\x01\x00", "\x05\xff").Close()
	talk(socks4, "\x00\x5b").Close()
	talk("\x05\x01\x02\x01\x04fred\x06secret", "\x05\x02\x01\x00").Close()
	if v := receive(t, book.came); v.user != "fred" {
		t.Errorf("%q came", v.user)
	}
	who.Store("-")
	talk("\x05\x02\x00\x02", "\x05\xff").Close()
	if len(book.came) > 0 {
		t.Errorf("%d have come from a foreign network", len(book.came))
	}
}

func TestFewStrangersAreAtTheDoorAtOnce(t *testing.T) {
	book := newGuestBook()
	at := openDoor(t, &Door{
		Enter: book.enter, Admission: Admission{Authenticate: Password("fred", "secret")},
		MaxStrangers: 3, MaxHostStrangers: 2,
	})
	in := func(c *net.TCPConn) {
		t.Helper()
		send(t, c, "\x05\x01\x02\x01\x04fred\x06secret")
		expect(t, c, "\x05\x02\x01\x00")
		receive(t, book.came)
	}
	in(dial(t, at))
	stranger := func() *net.TCPConn {
		t.Helper()
		c := dial(t, at)
		send(t, c, "\x05\x01\x02")
		expect(t, c, "\x05\x02")
		return c
	}
	first, _ := stranger(), stranger()
	if c, err := net.Dial("tcp", at); err == nil {
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a third one reads %v", err)
		}
		c.Close()
	}
	send(t, first, "\x01\x04fred\x06secret")
	expect(t, first, "\x01\x00")
	stranger()

	var s places
	for i, want := range []bool{true, true, false} {
		source := netip.MustParseAddr("2001:db8::" + string(rune('1'+i)))
		if _, ok := s.enter(source, 100, 2); ok != want {
			t.Errorf("number %d of a network: %v", i, ok)
		}
	}
	p, ok := s.enter(netip.MustParseAddr("192.0.2.1"), 3, 2)
	if _, more := s.enter(netip.MustParseAddr("192.0.2.2"), 3, 2); !ok || more {
		t.Errorf("the third and fourth of all: %v, %v", ok, more)
	}
	p.leave()
	p.leave()
	if s.count != 2 || len(s.hosts) != 1 {
		t.Errorf("there are %d of %d hosts", s.count, len(s.hosts))
	}
}

// lingering is a connection whose Close takes as long as a test likes.
type lingering struct {
	duplex
	closing, close chan struct{}
}

func (c lingering) Close() error {
	close(c.closing)
	<-c.close
	return c.duplex.Close()
}

func TestAStrangerHasItsPlaceUntilItsConnectionIsClosed(t *testing.T) {
	app, came := newDuplex()
	conn := lingering{came, make(chan struct{}), make(chan struct{})}
	s := (&Door{MaxStrangers: 1}).serving()
	s.serve(t.Context(), conn)
	send(t, app, "?") // that is nothing which is spoken here
	receive(t, conn.closing)
	taken := func() int {
		s.strangers.mu.Lock()
		defer s.strangers.mu.Unlock()
		return s.strangers.count
	}
	if n := taken(); n != 1 {
		t.Errorf("%d places are taken while a stranger's connection is closed", n)
	}
	close(conn.close)
	s.apps.Wait()
	if n := taken(); n != 0 {
		t.Errorf("%d places are taken in the end", n)
	}
}

func TestNobodyTakesLongerThanAHandshakeToSayWhoAnAppIs(t *testing.T) {
	book := newGuestBook()
	for name, test := range map[string]struct {
		admission Admission
		said      string
	}{
		"identify": {Admission{Identify: func(ctx context.Context, _ net.Conn) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}}, ""},
		"ticket": {Admission{GSSAPI: func(ctx context.Context, _ netip.AddrPort, _ []byte) (GSSGrant, error) {
			<-ctx.Done()
			return GSSGrant{}, ctx.Err()
		}}, "\x05\x01\x01" + gssMessage(t, gssToken, []byte("ticket"))},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, openDoor(t, &Door{Enter: book.enter, Admission: test.admission, HandshakeTimeout: 50 * time.Millisecond}))
			send(t, c, test.said)
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the app still waits")
			}
		})
	}
}

func TestStrangersWhoSayNothingHaveToGo(t *testing.T) {
	book := newGuestBook()
	at := openDoor(t, &Door{
		Enter: book.enter, Admission: Admission{Authenticate: Password("fred", "secret")},
		HandshakeTimeout: 50 * time.Millisecond,
	})
	expectEnd(t, dial(t, at))
}
