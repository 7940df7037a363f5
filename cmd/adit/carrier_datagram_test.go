//go:build unix

package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/wglink"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/udp"
)

// ferryPatience bounds what the tests here wait for.
const ferryPatience = time.Minute

// wireGuardSource makes carriers inside WireGuard on loopback.
type wireGuardSource struct {
	dial *wglink.Dialer
	far  chan net.Conn
}

func newWireGuardSource(t testing.TB) *wireGuardSource {
	t.Helper()
	identity, err := keys.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.WireGuard()
	if err != nil {
		t.Fatal(err)
	}
	device, err := keys.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &wireGuardSource{
		dial: &wglink.Dialer{Endpoint: pc.LocalAddr().String(), ServerKey: key.Public(), Key: device.WireGuard(), HandshakeTimeout: ferryPatience},
		far:  make(chan net.Conn),
	}
	server := wglink.NewServer(wglink.ServerConfig{Key: key})
	if err := server.AddPeer(s.dial.Key.Public()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		_ = server.Serve(ctx, pc, func(context.Context, wglink.Arrival) ([]byte, func(context.Context, net.Conn)) {
			return tunnel.Welcome{}.Bytes(), func(ctx context.Context, conn net.Conn) {
				s.far <- conn
				<-ctx.Done()
			}
		})
	})
	t.Cleanup(func() { cancel(); serving.Wait() })
	return s
}

func (s *wireGuardSource) next(t testing.TB) (near, far inside) {
	t.Helper()
	c, err := s.dial.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := wireGuardCarrier{c}.Attach(t.Context(), make([]byte, wglink.OpeningSize))
	if err != nil {
		t.Fatal(err)
	}
	return conn.(inside), inside{(<-s.far).(wglink.DatagramConn)}
}

// ferry is a session over real carriers. What comes out of its associations at the
// server goes to what far makes of them; what comes on other streams goes back.
type ferry struct {
	t              testing.TB
	client, server *tunnel.Session
	mux            *udp.Mux // the client's

	running sync.WaitGroup
	epoch   uint64
}

func newFerry(t testing.TB, far func(*udp.Association) socks.Inbox) *ferry {
	f := &ferry{t: t}
	var mux *udp.Mux
	f.client = tunnel.New(true, tunnel.Config{Grace: time.Minute})
	f.server = tunnel.New(false, tunnel.Config{Grace: time.Minute, Handle: func(_ context.Context, s *tunnel.Stream) {
		what := make([]byte, 1)
		if _, err := io.ReadFull(s, what); err != nil {
			return
		}
		if what[0] != 'a' {
			_, _ = s.Write(what)
			return
		}
		a := mux.Associate(s)
		defer a.Close()
		if err := a.Open(far(a)); err != nil {
			t.Error(err)
		}
		_, _ = s.Write(what)
		a.Wait()
	}})
	f.mux, mux = udp.New(f.client), udp.New(f.server)
	for _, serve := range []func(context.Context) error{f.client.Serve, f.server.Serve, f.mux.Serve, mux.Serve} {
		f.running.Go(func() { _ = serve(context.Background()) })
	}
	t.Cleanup(func() {
		f.client.Close(0)
		f.server.Close(0)
		f.running.Wait()
	})
	return f
}

// board gives the session a new carrier.
func (f *ferry) board(near, far net.Conn) {
	f.t.Helper()
	f.epoch++
	up, down := f.server.Received(), f.client.Received()
	s, err := f.server.Attach(far, f.epoch, down)
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := f.client.Attach(near, f.epoch, up)
	if err != nil {
		f.t.Fatal(err)
	}
	f.running.Go(func() { _ = s.Serve(context.Background()) })
	f.running.Go(func() { _ = c.Serve(context.Background()) })
}

// roundTrip opens a stream and exchanges a byte on it.
func (f *ferry) roundTrip(what string) *tunnel.Stream {
	s, err := f.client.Open(context.Background())
	if err == nil {
		_, err = io.WriteString(s, what)
	}
	if err == nil {
		_, err = io.ReadFull(s, make([]byte, 1))
	}
	if err != nil {
		f.t.Error(err)
	}
	return s
}

// associate gives an association.
func (f *ferry) associate(in socks.Inbox) *udp.Association {
	f.t.Helper()
	a := f.mux.Associate(f.roundTrip("a"))
	if err := a.Open(in); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = a.Close() })
	return a
}

// mirror sends back what an association's other end sends.
type mirror struct{ *udp.Association }

func (mirror) Lost(socks.Loss) {}

func mirrored(a *udp.Association) socks.Inbox { return mirror{a} }

// numbers are datagrams that have come back, by what is in them. What it has no room
// for is lost.
type numbers chan uint32

func (n numbers) Deliver(batch []socks.Datagram) {
	for _, d := range batch {
		select {
		case n <- binary.BigEndian.Uint32(d.Payload):
		default:
		}
	}
}

func (numbers) Lost(socks.Loss) {}

func numbered(i uint32, size int) []socks.Datagram {
	payload := binary.BigEndian.AppendUint32(make([]byte, 0, size), i)
	return []socks.Datagram{{Addr: socks.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 53}, Payload: payload[:size]}}
}

// watched counts the datagrams of peers that go past its bytes; what the ends tell each
// other of them begins with flow number 0, and does not count. The bytes wait while hold
// is locked.
type watched struct {
	inside
	sent *atomic.Int64
	hold *sync.Mutex
}

func watch(c inside, hold *sync.Mutex) watched { return watched{c, new(atomic.Int64), hold} }

func (w watched) WriteDatagrams(batch [][]byte) {
	for _, b := range batch {
		if b[0] != 0 {
			w.sent.Add(1)
		}
	}
	w.inside.WriteDatagrams(batch)
}

func (w watched) Write(b []byte) (int, error) {
	w.hold.Lock()
	defer w.hold.Unlock()
	return w.inside.Write(b)
}

func TestDatagramsInsideWireGuardDoNotWaitForTheBytes(t *testing.T) {
	f := newFerry(t, mirrored)
	one, other := newWireGuardSource(t).next(t)
	var hold sync.Mutex
	near, far := watch(one, &hold), watch(other, &hold)
	f.board(near, far)
	back := make(numbers, 1000)
	a := f.associate(back)
	trip := func(i uint32) {
		t.Helper()
		a.Deliver(numbered(i, 1000))
		select {
		case got := <-back:
			if got != i {
				t.Fatalf("datagram %d came back, want %d", got, i)
			}
		case <-time.After(ferryPatience):
			t.Fatalf("datagram %d does not come back", i)
		}
	}
	next := uint32(0)
	for ; near.sent.Load() == 0 || far.sent.Load() == 0; next++ {
		trip(next) // what introduces a peer goes among the bytes
	}

	hold.Lock()
	release := sync.OnceFunc(hold.Unlock)
	defer release()
	passed := make(chan bool)
	f.running.Go(func() { f.roundTrip("b"); close(passed) })
	for range 20 {
		trip(next)
		next++
	}
	select {
	case <-passed:
		t.Error("the bytes have not been held")
	default:
	}
	release()
	<-passed
}

func TestDatagramsGoOnWhileCarriersChangeTheirKind(t *testing.T) {
	f := newFerry(t, mirrored)
	overTLS, overWG := newCarrierSource(t), newWireGuardSource(t)
	f.board(overTLS.next(t))
	back := make(numbers, 1000)
	a := f.associate(back)

	var next atomic.Uint32
	over := make(chan struct{})
	f.running.Go(func() {
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-tick.C:
				i := next.Add(1) - 1
				a.Deliver(numbered(i, 10+int(i)*37%1300)) // some too long to go past the bytes
			case <-over:
				tick.Stop()
				return
			}
		}
	})
	defer close(over)
	seen := map[uint32]bool{}
	// flow waits until datagrams have come back that were sent from now on.
	flow := func() {
		t.Helper()
		late := time.After(ferryPatience)
		for from, n := next.Load(), 0; n < 300; {
			select {
			case i := <-back:
				if seen[i] {
					t.Fatalf("datagram %d came twice", i)
				}
				seen[i] = true
				if i >= from {
					n++
				}
			case <-late:
				t.Fatal("no datagrams come back")
			}
		}
	}
	flow()
	for range 3 {
		one, far := overWG.next(t)
		near := watch(one, new(sync.Mutex))
		f.board(near, far)
		flow()
		if near.sent.Load() == 0 {
			t.Error("no datagram went past the bytes")
		}
		f.board(overTLS.next(t))
		flow()
	}
	if lost := int(next.Load()) - len(seen); lost > len(seen)/2 {
		t.Errorf("%d datagrams of %d are lost", lost, next.Load())
	}
}

// tally counts what comes.
type tally struct{ came atomic.Int64 }

func (c *tally) Deliver(batch []socks.Datagram) { c.came.Add(int64(len(batch))) }
func (*tally) Lost(socks.Loss)                  {}

// BenchmarkDatagramsInsideWireGuard moves datagrams of 64 bytes past a carrier's bytes,
// and among them.
func BenchmarkDatagramsInsideWireGuard(b *testing.B) {
	const window, batch = 1024, 32
	for _, way := range []string{"past", "among"} {
		b.Run(way, func(b *testing.B) {
			count := new(tally)
			f := newFerry(b, func(*udp.Association) socks.Inbox { return count })
			near, far := newWireGuardSource(b).next(b)
			if way == "past" {
				f.board(near, far)
			} else {
				f.board(struct{ net.Conn }{near}, far)
			}
			a := f.associate(new(tally))
			some := slices.Repeat(numbered(0, 64), batch)
			b.ResetTimer()
			busy := processorTime()
			sent, lost := int64(0), int64(0)
			for range (b.N + batch - 1) / batch {
				for since := time.Now(); sent-lost-count.came.Load() > window; time.Sleep(20 * time.Microsecond) {
					if time.Since(since) > 20*time.Millisecond {
						lost = sent - count.came.Load()
					}
				}
				a.Deliver(some)
				sent += batch
			}
			b.StopTimer()
			came := float64(count.came.Load())
			b.ReportMetric(came/b.Elapsed().Seconds(), "datagrams/s")
			b.ReportMetric(float64((processorTime()-busy).Nanoseconds())/came, "cpu-ns/datagram")
			b.ReportMetric(100*float64(lost)/float64(sent), "%lost")
		})
	}
}
