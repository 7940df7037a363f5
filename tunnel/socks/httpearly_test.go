package socks

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

func TestForwardedRequestsTravelWithTheirConnection(t *testing.T) {
	p := newPatient()
	c := dial(t, openDoor(t, &Door{Relay: p}))
	send(t, c, "GET http://example.com/page HTTP/1.1\r\nHost: example.com\r\n\r\n")
	r := receive(t, p.asked)
	q, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(r.Initial))))
	if err != nil || q.URL.Path != "/page" || r.Dialect != HTTPForward || r.Dst.String() != "example.com:80" {
		t.Fatalf("the relay is asked for %+v, %v", r, err)
	}
	near, far := newDuplex()
	defer far.Close()
	p.connect <- near
	go io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestForwardedRequestsAreGivenUpWithTheirApp(t *testing.T) {
	p := newPatient()
	c := dial(t, openDoor(t, &Door{Relay: p}))
	send(t, c, "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n")
	receive(t, p.asked)
	c.Close()
	receive(t, p.gaveUp)
}

func TestEarlyConnIsAConnLikeOthers(t *testing.T) {
	begin := func(connect func(first []byte) (relay.Conn, error)) *earlyConn {
		return &earlyConn{connect: connect, giveUp: func() {}, ready: make(chan struct{})}
	}
	never := func([]byte) (relay.Conn, error) {
		t.Error("it connects after its end")
		return nil, errors.New("never")
	}
	for _, end := range []func(*earlyConn) error{(*earlyConn).Close, (*earlyConn).Reset} {
		c := begin(never)
		if err := end(c); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after the end: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after the end: %v", err)
		}
		if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("deadline after the end: %v", err)
		}
	}

	s := newSink(nil)
	c := begin(func(first []byte) (relay.Conn, error) {
		if len(first) != MaxInitialData6 {
			t.Errorf("%d bytes go along", len(first))
		}
		s.got.Write(first)
		return s, nil
	})
	words := strings.Repeat("words ", 10_000)
	if n, err := io.WriteString(c, words); n != len(words) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	if s.all() != words {
		t.Error("the target gets something else")
	}

	c = begin(func([]byte) (relay.Conn, error) { return nil, HostUnreachable })
	if err := c.CloseWrite(); CodeOf(err) != HostUnreachable {
		t.Errorf("nobody is there: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); CodeOf(err) != HostUnreachable {
		t.Errorf("nobody is there: %v", err)
	}
}
