package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

// counter is an Inbox that only counts.
type counter struct{ came atomic.Int64 }

func (c *counter) Deliver(batch []socks.Datagram) { c.came.Add(int64(len(batch))) }
func (c *counter) Lost(socks.Loss)                {}

func TestAssociationsThatWaitCostLittle(t *testing.T) {
	const associations, peers = 1000, 10
	e := &Exit{Allow: toLoopback}
	at := udpEcho(t, "127.0.0.1:0")
	var in counter
	before, goroutines := heapInUse(), runtime.NumGoroutine()
	all := make([]socks.Association, associations)
	for i := range all {
		a, _, err := e.Associate(t.Context(), socks.Request{}, &in)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		all[i] = a
	}
	for _, a := range all {
		batch := to(at, "x")
		for p := range peers - 1 {
			// Nobody is there.
			batch = append(batch, to(socks.Addr{IP: netip.AddrFrom4([4]byte{127, 2, 0, byte(p)}), Port: 9}, "x")...)
		}
		a.Send(batch)
	}
	waitFor(t, func() bool { return in.came.Load() == associations })
	each := (heapInUse() - before) / associations
	t.Logf("an association that waits: %d bytes of heap and stack", each)
	if each > 16<<10 {
		t.Errorf("an association takes %d bytes", each)
	}
	if n := runtime.NumGoroutine() - goroutines; n > associations+10 {
		t.Errorf("%d goroutines for %d associations", n, associations)
	}
}

// heapInUse gives what is taken of heap and stacks, in bytes.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what pools have let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkAssociationSend sends to a peer, in batches as they come out of a
// session.
func BenchmarkAssociationSend(b *testing.B) {
	for _, size := range []int{64, 1200} {
		for _, batch := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%dx%dB", batch, size), func(b *testing.B) {
				_, at := listenPeer(b, "127.0.0.1:0")
				a, _, err := (&Exit{Allow: toLoopback}).Associate(b.Context(), socks.Request{}, &counter{})
				if err != nil {
					b.Fatal(err)
				}
				defer a.Close()
				datagrams := make([]socks.Datagram, batch)
				for i := range datagrams {
					datagrams[i] = socks.Datagram{Addr: at, Payload: make([]byte, size)}
				}
				b.ReportAllocs()
				for n := 0; n < b.N; n += batch {
					a.Send(datagrams)
				}
			})
		}
		b.Run(fmt.Sprintf("plain/%dB", size), func(b *testing.B) {
			_, at := listenPeer(b, "127.0.0.1:0")
			conn, _ := listenPeer(b, "127.0.0.1:0")
			payload, to := make([]byte, size), netip.AddrPortFrom(at.IP, at.Port)
			for b.Loop() {
				_, _ = conn.WriteToUDPAddrPort(payload, to)
			}
		})
	}
}

// BenchmarkAssociationReceive counts what arrives from a peer that sends as fast as
// it can, beside a loop of ReadFrom.
func BenchmarkAssociationReceive(b *testing.B) {
	for _, size := range []int{64, 1200} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			var in counter
			a, reply, err := (&Exit{Allow: toLoopback}).Associate(b.Context(), socks.Request{}, &in)
			if err != nil {
				b.Fatal(err)
			}
			defer a.Close()
			b.ReportAllocs()
			flood(b, reply.Bound.Port(), size, in.came.Load)
		})
		b.Run(fmt.Sprintf("plain/%dB", size), func(b *testing.B) {
			conn, at := listenPeer(b, "127.0.0.1:0")
			var came atomic.Int64
			var reading sync.WaitGroup
			reading.Go(func() {
				buffer := make([]byte, 64<<10)
				for {
					if _, _, err := conn.ReadFrom(buffer); errors.Is(err, net.ErrClosed) {
						return
					}
					came.Add(1)
				}
			})
			flood(b, at.Port, size, came.Load)
			conn.Close()
			reading.Wait()
		})
	}
}

// flood sends until b.N datagrams have come.
func flood(b *testing.B, port uint16, size int, came func() int64) {
	a, _, err := (&Exit{Allow: toLoopback}).Associate(b.Context(), socks.Request{}, &counter{})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	batch := make([]socks.Datagram, 32)
	for i := range batch {
		batch[i] = socks.Datagram{Addr: socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: port}, Payload: make([]byte, size)}
	}
	b.ResetTimer()
	sent := 0
	began := time.Now()
	for came() < int64(b.N) {
		a.Send(batch)
		sent += len(batch)
		runtime.Gosched()
	}
	b.ReportMetric(float64(came())/time.Since(began).Seconds(), "datagrams/s")
	b.ReportMetric(100*(1-float64(came())/float64(sent)), "%lost")
}
