package udp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/udp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// side is one end of a session of which only the datagrams exist. What it sends goes
// where pass says.
type side struct {
	*udp.Mux
	pass func(b []byte) // towards the other end

	in chan []byte

	mu     sync.Mutex
	sent   [][]byte
	failed error
}

func newSide() *side {
	s := &side{in: make(chan []byte, 1<<16)}
	s.Mux = udp.New(s)
	return s
}

func (s *side) SendDatagrams(batch []tunnel.Datagram) error {
	for _, d := range batch {
		b := slices.Concat(d.Head, d.Body)
		s.mu.Lock()
		s.sent = append(s.sent, b)
		s.mu.Unlock()
		s.pass(b)
	}
	return nil
}

func (s *side) ReceiveDatagrams(ctx context.Context, into [][]byte) (n int, err error) {
	select {
	case into[0] = <-s.in:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for n = 1; n < len(into) && len(s.in) > 0; n++ {
		into[n] = <-s.in
	}
	return n, nil
}

func (s *side) Fail(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = why
}

func (s *side) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// last is what the end has sent last.
func (s *side) last() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[len(s.sent)-1]
}

// world is a client and a server.
type world struct {
	t              *testing.T
	client, server *side
	stop           func() // and wait
}

// newWorld gives a world on whose way nothing happens to datagrams.
func newWorld(t *testing.T) *world {
	w := &world{t: t, client: newSide(), server: newSide()}
	w.client.pass = func(b []byte) { w.server.in <- b }
	w.server.pass = func(b []byte) { w.client.in <- b }
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	for _, s := range []*side{w.client, w.server} {
		serving.Go(func() { s.Serve(ctx) })
	}
	w.stop = func() { cancel(); serving.Wait() }
	t.Cleanup(w.stop)
	return w
}

// stream is one end of a stream that carries nothing.
type stream struct {
	id     uint32
	closed chan struct{} // of both ends
	once   *sync.Once
}

func (s stream) ID() uint32                 { return s.id }
func (s stream) Read(b []byte) (int, error) { <-s.closed; return 0, io.EOF }
func (s stream) Close() error               { s.once.Do(func() { close(s.closed) }); return nil }

// inbox keeps what it gets.
type inbox struct {
	mu      sync.Mutex
	got     []socks.Datagram
	batches int
	losses  []socks.Loss
}

func (i *inbox) Deliver(batch []socks.Datagram) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.batches++
	for _, d := range batch {
		d.Payload = slices.Clone(d.Payload)
		i.got = append(i.got, d)
	}
}

func (i *inbox) Lost(l socks.Loss) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.losses = append(i.losses, l)
}

// take gives what has come since the last call.
func (i *inbox) take() []socks.Datagram {
	i.mu.Lock()
	defer i.mu.Unlock()
	got := i.got
	i.got = nil
	return got
}

// ends are both ends of an association.
type ends struct {
	client, server *udp.Association
	up, down       *inbox // of the server, and of the client
}

// associate begins an association, the nth of the session.
func (w *world) associate(n int) *ends {
	s := stream{id: uint32(2*n + 1), closed: make(chan struct{}), once: new(sync.Once)}
	e := &ends{client: w.client.Associate(s), server: w.server.Associate(s), up: new(inbox), down: new(inbox)}
	if err := errors.Join(e.client.Open(e.down), e.server.Open(e.up)); err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (e *ends) close() {
	e.client.Close()
	e.server.Close()
}

func to(addr string, payload string) []socks.Datagram {
	a, err := socks.ParseAddr(addr)
	if err != nil {
		panic(err)
	}
	return []socks.Datagram{{Addr: a, Payload: []byte(payload)}}
}

// want compares what has come.
func want(t *testing.T, in *inbox, batch []socks.Datagram) {
	t.Helper()
	got := in.take()
	if fmt.Sprintf("%v %q", got, got) != fmt.Sprintf("%v %q", batch, batch) {
		t.Errorf("got %v, want %v", got, batch)
	}
}

func TestAddressIsToldUntilItIsKnownAndThenANumberSaysItAll(t *testing.T) {
	for addr, size := range map[string]int{
		"192.0.2.1:53":      4 + 7,
		"[2001:db8::1]:53":  4 + 19,
		"name.example:5353": 4 + 16,
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.associate(0)
			for _, way := range []struct {
				from *side
				near *udp.Association
				in   *inbox
			}{{w.client, a.client, a.up}, {w.server, a.server, a.down}} {
				way.near.Deliver(to(addr, "first"))
				if n := len(way.from.last()); n != size+len("first") {
					t.Errorf("%s: the first datagram has %d bytes", addr, n)
				}
				synctest.Wait()
				way.near.Deliver(to(addr, "second"))
				if n := len(way.from.last()); n != 1+len("second") {
					t.Errorf("%s: the second datagram has %d bytes", addr, n)
				}
				synctest.Wait()
				want(t, way.in, append(to(addr, "first"), to(addr, "second")...))
			}
			a.close()
		})
	}
}

func TestDatagramsThatComeTogetherAreHandedOverTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.associate(0)
		var batch []socks.Datagram
		for n := range 200 {
			batch = append(batch, to(fmt.Sprintf("192.0.2.%d:53", n), "x")...)
		}
		a.client.Deliver(batch)
		synctest.Wait()
		// How many is for the scheduler to say, as readers overtake the writer.
		if a.up.batches > 40 {
			t.Errorf("200 datagrams came in %d batches", a.up.batches)
		}
		want(t, a.up, batch)
		a.close()
	})
}

func TestOneHostHasOneNumberHoweverItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.associate(0)
		a.client.Deliver(to("192.0.2.1:53", "x"))
		synctest.Wait()
		a.client.Deliver(to("[::ffff:192.0.2.1]:53", "y"))
		synctest.Wait()
		if n := len(w.client.last()); n != 2 {
			t.Errorf("%d bytes", n)
		}
		want(t, a.up, append(to("192.0.2.1:53", "x"), to("192.0.2.1:53", "y")...))
		a.close()
	})
}

func TestWhatCannotBeNamedIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.associate(0)
		for _, name := range []string{"", "a b", "a\nb", string(make([]byte, 300))} {
			a.client.Deliver([]socks.Datagram{{Addr: socks.Addr{Name: name, Port: 1}, Payload: []byte("x")}})
		}
		synctest.Wait()
		if len(w.client.sent) != 0 {
			t.Errorf("% x was sent", w.client.sent)
		}
		a.close()
	})
}

func TestLossesAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.associate(0)
		losses := []socks.Loss{
			{To: netip.MustParseAddrPort("192.0.2.1:53"), Reporter: netip.MustParseAddr("192.0.2.254"), Code: socks.HostUnreachable},
			{To: netip.MustParseAddrPort("[2001:db8::1]:53"), Reporter: netip.MustParseAddr("2001:db8::2"), Code: socks.GeneralFailure, MTU: 1280},
			{To: netip.MustParseAddrPort("192.0.2.1:53"), Code: socks.ConnectionRefused},
		}
		for _, l := range losses {
			a.server.Lost(l)
		}
		synctest.Wait()
		if !slices.Equal(a.down.losses, losses) {
			t.Errorf("%+v", a.down.losses)
		}
		a.close()
	})
}

func TestNothingComesAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.associate(0)
		ended := make(chan struct{})
		go func() { a.server.Wait(); close(ended) }()
		a.client.Deliver(to("192.0.2.1:53", "x"))
		synctest.Wait()
		a.up.take()
		a.server.Close()
		<-ended
		a.client.Wait() // the other end hears of it
		a.client.Deliver(to("192.0.2.1:53", "number"))
		a.client.Deliver(to("192.0.2.2:53", "address"))
		a.client.Lost(socks.Loss{To: netip.MustParseAddrPort("192.0.2.1:53"), Code: socks.HostUnreachable})
		synctest.Wait()
		want(t, a.up, nil)
		if len(a.up.losses) != 0 {
			t.Errorf("%+v", a.up.losses)
		}
		a.client.Close()
	})
}

func TestStreamHasOneAssociation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.associate(0)
		other := w.server.Associate(stream{id: 1, closed: make(chan struct{}), once: new(sync.Once)})
		if err := other.Open(new(inbox)); err == nil {
			t.Error("it has two")
		}
		other.Close()
		a.client.Deliver(to("192.0.2.1:53", "x"))
		synctest.Wait()
		want(t, a.up, to("192.0.2.1:53", "x"))
		a.close()
	})
}
