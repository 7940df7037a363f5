package wglink

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// longLink carries UDP between whoever sends to it and a server. It has a rate, a
// delay, and room for one round trip's worth of what waits; what is more is lost.
type longLink struct {
	rate  float64       // bytes per second, each way
	delay time.Duration // one way

	near, far *net.UDPConn
	client    netip.AddrPort // whoever has sent last
	mu        sync.Mutex
}

// headers is what a UDP payload costs more on a link, with IPv4.
const headers = 28

// run carries datagrams until ctx ends.
func (l *longLink) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		_ = l.near.Close()
		_ = l.far.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		l.carry(ctx, l.near, func(b []byte) error {
			_, err := l.far.Write(b)
			return err
		})
	})
	both.Go(func() {
		l.carry(ctx, l.far, func(b []byte) error {
			l.mu.Lock()
			to := l.client
			l.mu.Unlock()
			_, err := l.near.WriteToUDPAddrPort(b, to)
			return err
		})
	})
	both.Wait()
}

type delayed struct {
	b  []byte
	at time.Time
}

func (l *longLink) carry(ctx context.Context, from *net.UDPConn, send func([]byte) error) {
	line := make(chan delayed, 1<<16)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer close(line)
	sending.Go(func() {
		for d := range line {
			select {
			case <-time.After(time.Until(d.at)):
				_ = send(d.b) // a datagram may be lost
			case <-ctx.Done():
			}
		}
	})
	room := time.Duration(2 * l.delay)
	free := time.Now() // when the line is free again
	for b := make([]byte, 1<<16); ; {
		n, at, err := from.ReadFromUDPAddrPort(b)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			continue
		}
		if from == l.near {
			l.mu.Lock()
			l.client = at
			l.mu.Unlock()
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		if free.Sub(now) > room {
			continue // lost
		}
		free = free.Add(time.Duration(float64(n+headers) / l.rate * float64(time.Second)))
		line <- delayed{append([]byte(nil), b[:n]...), free.Add(l.delay)}
	}
}

// BenchmarkLongLink sends one stream over a link of 100 Mbit/s and 50 ms round
// trip, which TCP alone fills to 95 in a hundred. Run it with -benchtime 10x, for 10 s.
func BenchmarkLongLink(b *testing.B) {
	const rate = 100e6 / 8
	c := carrierTunnel(b)
	defer c.close()
	far, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(c.dialer.Endpoint)))
	if err != nil {
		b.Fatal(err)
	}
	l := &longLink{rate: rate, delay: 25 * time.Millisecond, near: listen(b), far: far}
	_, _ = l.near.SetReadBuffer(4<<20), l.far.SetReadBuffer(4<<20)
	c.dialer.Endpoint = l.near.LocalAddr().String()
	ctx, cancel := context.WithCancel(b.Context())
	var link sync.WaitGroup
	defer link.Wait()
	defer cancel()
	link.Go(func() { l.run(ctx) })

	conn, err := c.dial(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	at, _ := c.accept()
	var writing sync.WaitGroup
	defer writing.Wait()
	defer at.Close()
	writing.Go(func() { flood(at) })
	began := time.Now()
	_ = conn.SetReadDeadline(began.Add(time.Duration(b.N) * time.Second))
	n, _ := io.CopyBuffer(io.Discard, struct{ io.Reader }{conn}, make([]byte, 64<<10))
	b.ReportMetric(float64(n)/time.Since(began).Seconds()/rate*100, "%rate")
	b.ReportMetric(0, "ns/op")
}
