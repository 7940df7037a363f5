//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/tunnel"
)

// BenchmarkPriceOfResuming moves the same bytes through a session that outlives
// its carrier and through one that does not, in turns, each over a TLS carrier
// of its own on loopback. It gives what resuming costs as the median ratio of neighbours:
// 1.00 is nothing. Processor time is that of both ends and of the load.
func BenchmarkPriceOfResuming(b *testing.B) {
	for name, streams := range map[string]int{"one stream": 1, "eight streams": 8} {
		b.Run(name, func(b *testing.B) { benchmarkPrice(b, streams) })
	}
}

func benchmarkPrice(b *testing.B, streams int) {
	volume, rounds := 1<<30, 15
	if testing.Short() {
		volume, rounds = 256<<20, 7
	}
	carriers := newCarrierSource(b)
	with := newPricePair(b, carriers, true)
	without := newPricePair(b, carriers, false)
	for range b.N {
		var speed, cpu []float64
		for round := range rounds + 1 {
			order := []*pricePair{without, with}
			if round%2 == 1 {
				slices.Reverse(order) // whatever comes second pays for the first one's garbage
			}
			cost := map[*pricePair]spent{}
			for _, p := range order {
				cost[p] = p.move(b, streams, volume)
			}
			if round == 0 {
				continue // windows grow
			}
			speed = append(speed, cost[without].wall.Seconds()/cost[with].wall.Seconds())
			cpu = append(cpu, cost[with].cpu.Seconds()/cost[without].cpu.Seconds())
			b.Logf("with %v, %v of processor; without %v, %v", cost[with].wall, cost[with].cpu, cost[without].wall, cost[without].cpu)
		}
		b.ReportMetric(median(speed), "speed-ratio")
		b.ReportMetric(median(cpu), "cpu-ratio")
		b.ReportMetric(0, "ns/op")
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// spent is what a transfer took.
type spent struct{ wall, cpu time.Duration }

// carrierSource makes TLS carriers on loopback.
type carrierSource struct {
	dial *tlslink.Dialer
	far  chan net.Conn
}

func newCarrierSource(b testing.TB) *carrierSource {
	key, err := keys.NewServer()
	if err != nil {
		b.Fatal(err)
	}
	cert, err := key.Certificate("localhost")
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &carrierSource{
		dial: &tlslink.Dialer{Address: ln.Addr().String(), Pin: key.Pin()},
		far:  make(chan net.Conn),
	}
	over := make(chan struct{})
	web := &tlslink.Server{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		web.Serve(ctx, ln, func(context.Context, tlslink.Arrival) ([]byte, func(context.Context, net.Conn)) {
			return tunnel.Welcome{}.Bytes(), func(_ context.Context, conn net.Conn) {
				s.far <- conn
				<-over
			}
		})
	})
	b.Cleanup(func() { close(over); cancel(); serving.Wait() })
	return s
}

func (s *carrierSource) next(b testing.TB) (near, far net.Conn) {
	c, err := s.dial.Dial(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	near, _, err = c.Attach(b.Context(), make([]byte, tlslink.OpeningSize))
	if err != nil {
		b.Fatal(err)
	}
	return near, <-s.far
}

// pricePair is both ends of a session.
type pricePair struct {
	client, server *tunnel.Session
	arrived        chan *tunnel.Stream
}

func newPricePair(b *testing.B, carriers *carrierSource, resuming bool) *pricePair {
	p := &pricePair{arrived: make(chan *tunnel.Stream)}
	near, far := carriers.next(b)
	take := tunnel.Config{Handle: func(_ context.Context, s *tunnel.Stream) {
		p.arrived <- s
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{s}, make([]byte, 64<<10))
		s.CloseWrite()
	}}
	var running sync.WaitGroup
	if resuming {
		p.client, p.server = tunnel.New(true, tunnel.Config{}), tunnel.New(false, take)
		for end, conn := range map[*tunnel.Session]net.Conn{p.client: near, p.server: far} {
			c, err := end.Attach(conn, 1, 0)
			if err != nil {
				b.Fatal(err)
			}
			running.Go(func() { c.Serve(context.Background()) })
		}
	} else {
		p.client, p.server = tunnel.NewSession(near, true, tunnel.Config{}), tunnel.NewSession(far, false, take)
	}
	running.Go(func() { p.client.Serve(context.Background()) })
	running.Go(func() { p.server.Serve(context.Background()) })
	b.Cleanup(func() { p.client.Close(0); p.server.Close(0); running.Wait() })
	return p
}

// move sends volume bytes, shared by some streams.
func (p *pricePair) move(b *testing.B, streams, volume int) spent {
	var sending sync.WaitGroup
	began, cpu := time.Now(), processorTime()
	for range streams {
		s, err := p.client.Open(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		sending.Go(func() {
			piece := make([]byte, 64<<10)
			for range volume / streams / len(piece) {
				if _, err := s.Write(piece); err != nil {
					b.Error(err)
					return
				}
			}
			s.CloseWrite()
			s.Read(piece) // the end, once all has arrived
			s.Close()
		})
		<-p.arrived
	}
	sending.Wait()
	return spent{time.Since(began), processorTime() - cpu}
}
