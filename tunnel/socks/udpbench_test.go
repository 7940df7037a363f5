package socks

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
)

// benchmarkSocket gives a door's UDP socket and an app's, to whom it belongs.
func benchmarkSocket(b *testing.B) (*udpSocket, *net.UDPConn) {
	local := netip.MustParseAddr("127.0.0.1")
	s, err := newUDPSocket(local)
	if err != nil {
		b.Fatal(err)
	}
	s.desk, s.host = new(udpDesk), local
	b.Cleanup(s.close)
	app := listenUDP(b, local, 0)
	app.SetDeadline(time.Time{})
	s.settle(app.LocalAddr().(*net.UDPAddr).AddrPort())
	return s, app
}

// BenchmarkDeliver measures what it costs a door to give an app datagrams.
func BenchmarkDeliver(b *testing.B) {
	for _, size := range []int{64, 1200} {
		for _, many := range []int{1, 32} {
			b.Run(fmt.Sprintf("%dx%d", many, size), func(b *testing.B) {
				s, app := benchmarkSocket(b)
				go func() {
					in := ipv4.NewPacketConn(app)
					ms := make([]ipv4.Message, 64)
					for i := range ms {
						ms[i].Buffers = [][]byte{make([]byte, 2048)}
					}
					for {
						if _, err := in.ReadBatch(ms, 0); err != nil {
							return
						}
					}
				}()
				u := &udp5{socket: s}
				batch := make([]Datagram, many)
				for i := range batch {
					batch[i] = Datagram{here, make([]byte, size)}
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for n := 0; n < b.N; n += many {
					u.Deliver(batch)
				}
			})
		}
	}
}

// tally is an association that counts what is sent.
type tally struct {
	count chan int
}

func (c tally) Send(batch []Datagram) { c.count <- len(batch) }
func (tally) Done() <-chan struct{}   { return nil }
func (tally) Close() error            { return nil }

// BenchmarkReceive measures what a door takes from an app that sends one packet at a
// time, as most do.
func BenchmarkReceive(b *testing.B) {
	for _, size := range []int{64, 1200} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, app := benchmarkSocket(b)
			u := &udp5{socket: s}
			got := tally{make(chan int, 1024)}
			go s.receive(u, got)
			packet := make([]byte, 0, size+10)
			packet = append(packet, packet5("192.0.2.53:53", string(make([]byte, size)))...)
			to := s.local
			b.SetBytes(int64(size))
			b.ReportAllocs()
			under := 0
			for n := 0; n < b.N; n++ {
				if _, err := app.WriteToUDPAddrPort(packet, to); err != nil {
					b.Fatal(err)
				}
				if under++; under == 64 {
					for ; under > 0; under -= <-got.count {
					}
				}
			}
		})
	}
}
