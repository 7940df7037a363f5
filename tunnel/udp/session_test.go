package udp_test

import (
	"context"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/tunneltest"
	"github.com/adit-net/adit/tunnel/udp"
)

// patience bounds what a test waits for.
const patience = 20 * time.Second

// roamer is a session with real streams, whose carriers come and go. What an
// association sends to its server comes back; other streams get bytes without end.
type roamer struct {
	t              testing.TB
	client, server *tunnel.Session
	mux            *udp.Mux // the client's

	running sync.WaitGroup
	epoch   uint64
	link    *tunneltest.Conn
}

// reflection sends back what an association's other end sends.
type reflection struct{ *udp.Association }

func (r reflection) Lost(socks.Loss) {}

func newRoamer(t testing.TB) *roamer {
	r := &roamer{t: t}
	var far *udp.Mux
	r.client = tunnel.New(true, tunnel.Config{Grace: time.Minute})
	r.server = tunnel.New(false, tunnel.Config{Grace: time.Minute, Handle: func(_ context.Context, s *tunnel.Stream) {
		what := make([]byte, 1)
		if _, err := io.ReadFull(s, what); err != nil {
			return
		}
		if what[0] == 'b' {
			for bulk := make([]byte, 64<<10); ; {
				if _, err := s.Write(bulk); err != nil {
					return
				}
			}
		}
		a := far.Associate(s)
		defer a.Close()
		if err := a.Open(reflection{a}); err != nil {
			t.Error(err)
		}
		s.Write(what)
		a.Wait()
	}})
	r.mux, far = udp.New(r.client), udp.New(r.server)
	for _, s := range []*tunnel.Session{r.client, r.server} {
		r.running.Go(func() { s.Serve(context.Background()) })
	}
	for _, m := range []*udp.Mux{r.mux, far} {
		r.running.Go(func() { m.Serve(context.Background()) })
	}
	t.Cleanup(r.stop)
	return r
}

func (r *roamer) stop() {
	r.client.Close(0)
	r.server.Close(0)
	r.running.Wait()
}

// attach gives the session a new carrier.
func (r *roamer) attach(path tunneltest.Path) {
	r.t.Helper()
	near, far := tunneltest.Link(path)
	r.epoch++
	for _, end := range []struct {
		s, peer *tunnel.Session
		conn    *tunneltest.Conn
	}{{r.server, r.client, far}, {r.client, r.server, near}} {
		c, err := end.s.Attach(end.conn, r.epoch, end.peer.Received())
		if err != nil {
			r.t.Fatal(err)
		}
		r.running.Go(func() { c.Serve(context.Background()) })
	}
	r.link = near
}

func (r *roamer) open(what string) *tunnel.Stream {
	r.t.Helper()
	s, err := r.client.Open(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(s, what); err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *roamer) associate(in socks.Inbox) *udp.Association {
	r.t.Helper()
	s := r.open("a")
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		r.t.Fatal(err)
	}
	a := r.mux.Associate(s)
	if err := a.Open(in); err != nil {
		r.t.Fatal(err)
	}
	return a
}

// echoes gets what comes back.
type echoes chan socks.Datagram

func (e echoes) Deliver(batch []socks.Datagram) {
	for _, d := range batch {
		d.Payload = slices.Clone(d.Payload)
		select {
		case e <- d:
		default:
		}
	}
}

func (e echoes) Lost(socks.Loss) {}

func (e echoes) next(t testing.TB) string {
	t.Helper()
	select {
	case d := <-e:
		return string(d.Payload)
	case <-time.After(patience):
		t.Fatal("no datagram comes")
		panic("unreachable")
	}
}

func TestNumbersOutliveCarriers(t *testing.T) {
	r := newRoamer(t)
	r.attach(tunneltest.Path{})
	in := make(echoes, 10)
	a := r.associate(in)
	defer a.Close()
	for _, text := range []string{"one", "two", "three"} {
		for range 2 { // the first time with the address, if at all
			a.Deliver(to("192.0.2.1:53", text))
			if got := in.next(t); got != text {
				t.Fatalf("%q came back", got)
			}
		}
		r.link.Cut()
		for state, changed := r.client.State(); state.Attached; state, changed = r.client.State() {
			<-changed
		}
		a.Deliver(to("192.0.2.1:53", "lost")) // and never comes
		r.attach(tunneltest.Path{})
	}
}

func TestLargestDatagramsPassWithTheLongestNames(t *testing.T) {
	r := newRoamer(t)
	r.attach(tunneltest.Path{})
	in := make(echoes, 10)
	a := r.associate(in)
	defer a.Close()
	name := make([]byte, 255)
	for i := range name {
		name[i] = 'n'
	}
	d := socks.Datagram{Addr: socks.Addr{Name: string(name), Port: 1}, Payload: make([]byte, 65_527)}
	for range 3 {
		a.Deliver([]socks.Datagram{d})
		if n := len(in.next(t)); n != 65_527 {
			t.Errorf("%d bytes came back", n)
		}
	}
}

// TestDatagramsDoNotWaitBehindABulkDownload measures round trips of datagrams over 50 ms and
// 100 Mbit/s, on a link that keeps only what it needs to be busy.
func TestDatagramsDoNotWaitBehindABulkDownload(t *testing.T) {
	r := newRoamer(t)
	r.attach(tunneltest.Path{Delay: 25 * time.Millisecond, Rate: 12_500_000, Queue: 12_500_000/40 + 128<<10})
	in := make(echoes, 10)
	a := r.associate(in)
	defer a.Close()
	measure := func() time.Duration {
		var trips []time.Duration
		for range 60 {
			began := time.Now()
			a.Deliver(to("192.0.2.1:53", "ping"))
			in.next(t)
			trips = append(trips, time.Since(began))
		}
		slices.Sort(trips)
		return trips[len(trips)*95/100]
	}
	a.Deliver(to("192.0.2.1:53", "ping"))
	in.next(t)
	idle := measure()
	bulk := r.open("b")
	var moved atomic.Int64
	r.running.Go(func() {
		for b := make([]byte, 64<<10); ; {
			n, err := bulk.Read(b)
			moved.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	for moved.Load() < 5<<20 { // it is at full speed
		time.Sleep(10 * time.Millisecond)
	}
	// The machine may have had other things to do. Whoever waits behind the bulk does so
	// every time.
	good := false
	for try := 0; !good && try < 5; try++ {
		began, before := time.Now(), moved.Load()
		busy := measure()
		rate := float64(moved.Load()-before) / time.Since(began).Seconds()
		t.Logf("idle %v, busy %v, beside %.1f Mbit/s", idle, busy, rate*8/1e6)
		good = busy <= 2*idle && rate >= 0.5*12_500_000
	}
	if !good {
		t.Error("a round trip takes more than twice what it does on an idle link, or the download makes less than half")
	}
	bulk.Reset()
}

func TestDetachedSessionDropsDatagrams(t *testing.T) {
	r := newRoamer(t)
	r.attach(tunneltest.Path{})
	in := make(echoes, 10)
	a := r.associate(in)
	defer a.Close()
	a.Deliver(to("192.0.2.1:53", "before"))
	in.next(t)
	r.link.Cut()
	for state, changed := r.client.State(); state.Attached; state, changed = r.client.State() {
		<-changed
	}
	for range 1000 {
		a.Deliver(to("192.0.2.1:53", "lost"))
	}
	r.attach(tunneltest.Path{})
	a.Deliver(to("192.0.2.1:53", "after"))
	if got := in.next(t); got != "after" {
		t.Errorf("%q came back", got)
	}
}

// counted counts what comes.
type counted struct {
	n    atomic.Int64
	more chan struct{}
}

func (c *counted) Deliver(batch []socks.Datagram) {
	c.n.Add(int64(len(batch)))
	select {
	case c.more <- struct{}{}:
	default:
	}
}

func (c *counted) Lost(socks.Loss) {}

// flood sends datagrams that come back, as many at a time as the session keeps.
func flood(t testing.TB, a *udp.Association, in *counted, size, total int) {
	batch := make([]socks.Datagram, 32)
	for i := range batch {
		batch[i] = socks.Datagram{Addr: to("192.0.2.1:53", "")[0].Addr, Payload: make([]byte, size)}
	}
	limit := time.After(5 * time.Minute)
	for sent := 0; sent < total; sent += len(batch) {
		for int64(sent)-in.n.Load() > 512 {
			select {
			case <-in.more:
			case <-limit:
				t.Fatal("no datagrams come back")
			}
		}
		a.Deliver(batch)
	}
}

func TestDatagramsCostNoMemory(t *testing.T) {
	r := newRoamer(t)
	r.attach(tunneltest.Path{})
	in := &counted{more: make(chan struct{}, 1)}
	a := r.associate(in)
	defer a.Close()
	flood(t, a, in, 64, 10_000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const total = 100_000
	flood(t, a, in, 64, total)
	runtime.ReadMemStats(&after)
	// The link in memory makes a piece of every write.
	if n := float64(after.Mallocs-before.Mallocs) / total; n > 0.5 {
		t.Errorf("%.2f allocations for a datagram there and back", n)
	}
}

func benchmarkEcho(b *testing.B, size int, bulk bool) {
	r := newRoamer(b)
	r.attach(tunneltest.Path{})
	in := &counted{more: make(chan struct{}, 1)}
	a := r.associate(in)
	defer a.Close()
	if bulk {
		s := r.open("b")
		defer s.Reset()
		r.running.Go(func() {
			for buf := make([]byte, 64<<10); ; {
				if _, err := s.Read(buf); err != nil {
					return
				}
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	flood(b, a, in, size, b.N)
}

func BenchmarkEcho64(b *testing.B)              { benchmarkEcho(b, 64, false) }
func BenchmarkEcho1200(b *testing.B)            { benchmarkEcho(b, 1200, false) }
func BenchmarkEcho64BesideAStream(b *testing.B) { benchmarkEcho(b, 64, true) }

// TestPeersCostLittleMemoryAndNoGoroutine has a thousand associations that speak to ten
// thousand peers, at both ends of a session.
func TestPeersCostLittleMemoryAndNoGoroutine(t *testing.T) {
	const associations, peers = 1000, 10
	r := newRoamer(t)
	r.attach(tunneltest.Path{})
	in := &counted{more: make(chan struct{}, 1)}
	var all []*udp.Association
	for range associations {
		a := r.associate(in)
		defer a.Close()
		all = append(all, a)
	}
	measure := func() (heap int64, goroutines int) {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc), runtime.NumGoroutine()
	}
	heap, goroutines := measure()
	for i, a := range all {
		for n := range peers {
			a.Deliver(to(host(i*peers+n), "hello"))
		}
		for in.n.Load() < int64((i+1)*peers) {
			<-in.more
		}
	}
	heapAfter, goroutinesAfter := measure()
	each := (heapAfter - heap) / (associations * peers)
	t.Logf("a peer costs %d bytes, for both ends and both directions", each)
	if each > 2000 || goroutinesAfter > goroutines+10 {
		t.Errorf("a peer costs %d bytes, all of them %d goroutines", each, goroutinesAfter-goroutines)
	}
}
