package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/udp"
)

// mailbox keeps what comes.
type mailbox chan socks.Datagram

func (m mailbox) Deliver(batch []socks.Datagram) {
	for _, d := range batch {
		d.Payload = bytes.Clone(d.Payload)
		m <- d
	}
}

func (m mailbox) Lost(socks.Loss) {}

// reflection sends back what an association's peer sends.
type reflection struct{ *udp.Association }

func (r reflection) Lost(socks.Loss) {}

// mirror is a hub of one session whose associations send everything back.
type mirror struct {
	*hub
	session *hubSession
	open    chan *tunnel.Stream // gets the streams of associations
	ended   chan struct{}       // and one for each that has ended
}

func newMirror(t *testing.T) *mirror {
	m := &mirror{open: make(chan *tunnel.Stream, 10), ended: make(chan struct{}, 10)}
	begun := make(chan *udp.Mux, 1)
	m.hub = newHub(t, func(_ context.Context, s *tunnel.Stream) {
		q, err := socks.ReadRequest6(s)
		if err != nil || q.Command != socks.Associate {
			answer(s, socks.CommandNotSupported)
			return
		}
		mux := <-begun
		begun <- mux
		a := mux.Associate(s)
		defer func() { m.ended <- struct{}{} }()
		defer a.Close()
		if a.Open(reflection{a}) != nil || answer(s, socks.Succeeded) != nil {
			return
		}
		m.open <- s
		a.Wait()
	})
	m.grace = time.Minute
	m.running.Go(func() {
		select {
		case m.session = <-m.sessions:
			mux := udp.New(m.session.Session)
			begun <- mux
			_ = mux.Serve(m.ctx)
		case <-m.ctx.Done():
		}
	})
	return m
}

var associate = socks.Request{Command: socks.Associate}

// exchangeDatagram sends a datagram and wants it back.
func exchangeDatagram(t *testing.T, a socks.Association, in mailbox, text string) {
	t.Helper()
	d := socks.Datagram{Addr: socks.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 53}, Payload: []byte(text)}
	a.Send([]socks.Datagram{d})
	for {
		got := receive(t, in, text)
		if string(got.Payload) == "lost" {
			continue // it was not, after all
		}
		if got.Addr != d.Addr || string(got.Payload) != text {
			t.Fatalf("%q came back from %v", got.Payload, got.Addr)
		}
		return
	}
}

func TestDatagramsGoThroughTheSession(t *testing.T) {
	m := newMirror(t)
	c := start(t, m.hub, nil)
	var open []socks.Association
	var boxes []mailbox
	for range 3 {
		in := make(mailbox, 10)
		a, reply, err := c.Associate(t.Context(), associate, in)
		if err != nil || reply.Code != socks.Succeeded {
			t.Fatalf("%+v, %v", reply, err)
		}
		open, boxes = append(open, a), append(boxes, in)
	}
	for range 3 {
		for i, a := range open {
			exchangeDatagram(t, a, boxes[i], fmt.Sprintf("of association %d", i))
		}
	}
	for _, a := range open {
		began := time.Now()
		a.Close()
		receive(t, a.Done(), "the end")
		receive(t, m.ended, "the end at the server")
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

func TestAssociationOutlivesItsCarriers(t *testing.T) {
	m := newMirror(t)
	c := start(t, m.hub, nil)
	in := make(mailbox, 10)
	a, _, err := c.Associate(t.Context(), associate, in)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for n := range 5 {
		exchangeDatagram(t, a, in, fmt.Sprintf("over carrier %d", n))
		resumes := c.Status().Resumes
		m.session.cut(nil)
		a.Send([]socks.Datagram{{Addr: socks.Addr{Name: "lost.example", Port: 1}, Payload: []byte("lost")}})
		until(t, func() bool { s := c.Status(); return s.Connected && s.Resumes > resumes })
	}
	select {
	case <-a.Done():
		t.Error("the association is over")
	default:
	}
}

func TestAssociationIsOverWhenTheServerSaysSoOrTheSessionIsLost(t *testing.T) {
	for name, end := range map[string]func(*mirror){
		"ended": func(m *mirror) { (<-m.open).Close() },
		"reset": func(m *mirror) { (<-m.open).Reset() },
		"lost":  func(m *mirror) { m.session.lose() },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			c := start(t, m.hub, nil)
			a, _, err := c.Associate(t.Context(), associate, make(mailbox, 10))
			if err != nil {
				t.Fatal(err)
			}
			end(m)
			receive(t, a.Done(), "the end")
			a.Send([]socks.Datagram{{Addr: socks.Addr{Name: "x", Port: 1}}}) // harmless
			a.Close()
		})
	}
}

func TestRefusedAssociationHasTheServersCode(t *testing.T) {
	h := newHub(t, func(_ context.Context, s *tunnel.Stream) {
		if _, err := socks.ReadRequest6(s); err == nil {
			answer(s, socks.NotAllowed)
		}
	})
	c := start(t, h, nil)
	_, reply, err := c.Associate(t.Context(), associate, make(mailbox, 1))
	if reply.Code != socks.NotAllowed || !errors.Is(err, socks.NotAllowed) {
		t.Errorf("%+v, %v", reply, err)
	}
}

func TestServerHearsOfPortsThatAreWantedThere(t *testing.T) {
	asked := make(chan socks.Request6, 1)
	h := newHub(t, func(_ context.Context, s *tunnel.Stream) {
		if q, err := socks.ReadRequest6(s); err == nil {
			asked <- q
		}
		answer(s, socks.NotAllowed)
	})
	c := start(t, h, nil)
	r := socks.Request{Command: socks.Associate, Dst: socks.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 5005}}
	for dialect, want := range map[socks.Dialect]string{socks.SOCKS5: "0.0.0.0:0", socks.SOCKS6: "0.0.0.0:5005"} {
		r.Dialect = dialect
		_, _, err := c.Associate(t.Context(), r, make(mailbox, 1))
		if q := receive(t, asked, "the request"); q.Dst.String() != want {
			t.Errorf("%s: the server is asked for %s (%v), want %s", dialect, q.Dst, err, want)
		}
	}
}
