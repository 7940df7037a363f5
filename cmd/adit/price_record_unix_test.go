//go:build unix

package main

import (
	"context"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// BenchmarkPriceOfRecording does the same through a server that records its flows and through
// one that does not, in turns, each with a client of its own and real sockets on loopback:
// many flows, and one of many bytes. It gives what recording costs as the median ratio of
// neighbours: 1.00 is nothing. Processor time is that of all there is: apps, client, server
// and targets.
func BenchmarkPriceOfRecording(b *testing.B) {
	flows, volume, rounds := 20_000, 1<<30, 9
	if testing.Short() {
		flows, volume, rounds = 4_000, 256<<20, 5
	}
	var recording [2]*chain // no, and yes
	for i, mode := range []string{auditOff, auditLenient} {
		recording[i] = startChainWith(b, defaultServerConfig(), "[audit]", "mode = "+strconv.Quote(mode))
	}
	b.Run("flows", func(b *testing.B) {
		target := startTargets(b, "127.0.0.1:0")
		comparePrice(b, rounds, func(i int) spent { return recording[i].spend(b, target, flows) })
	})
	b.Run("bytes", func(b *testing.B) {
		target := startSink(b)
		comparePrice(b, rounds, func(i int) spent { return recording[i].pour(b, target, volume) })
	})
}

// comparePrice has something done without (0) and with (1) what has a price, in turns.
func comparePrice(b *testing.B, rounds int, do func(i int) spent) {
	for range b.N {
		var speed, cpu []float64
		for round := range rounds + 1 {
			var cost [2]spent
			order := []int{0, 1}
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, i := range order {
				cost[i] = do(i)
			}
			if round == 0 {
				continue // files, caches and windows grow
			}
			off, on := cost[0], cost[1]
			speed = append(speed, off.wall.Seconds()/on.wall.Seconds())
			cpu = append(cpu, on.cpu.Seconds()/off.cpu.Seconds())
			b.Logf("with %v, %v of processor; without %v, %v", on.wall, on.cpu, off.wall, off.cpu)
		}
		b.ReportMetric(median(speed), "speed-ratio")
		b.ReportMetric(median(cpu), "cpu-ratio")
		b.ReportMetric(0, "ns/op")
	}
}

// startTargets answers one byte to each connection, and gives its address.
func startTargets(t testing.TB, address string) string {
	return serveTargets(t, address, func(c net.Conn) {
		var one [1]byte
		if _, err := io.ReadFull(c, one[:]); err == nil {
			_, _ = c.Write(one[:])
			_, _ = c.Read(one[:])
		}
	})
}

// startSink takes all that comes, and gives its address.
func startSink(t testing.TB) string {
	return serveTargets(t, "127.0.0.1:0", func(c net.Conn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 64<<10))
	})
}

func serveTargets(t testing.TB, address string, serve func(net.Conn)) string {
	ln, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

// spend opens flows, eight at a time, each of which moves a byte both ways and ends.
func (c *chain) spend(b *testing.B, target string, flows int) spent {
	began, cpu := time.Now(), processorTime()
	var apps sync.WaitGroup
	for range 8 {
		apps.Go(func() {
			for range flows / 8 {
				if err := oneFlow(b.Context(), c.dial, target); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	apps.Wait()
	return spent{time.Since(began), processorTime() - cpu}
}

// pour sends a target volume bytes in one flow, and waits until it has them all.
func (c *chain) pour(b *testing.B, target string, volume int) spent {
	app, err := c.dial(b.Context(), target)
	if err != nil {
		b.Fatal(err)
	}
	defer app.Close()
	began, cpu := time.Now(), processorTime()
	piece := make([]byte, 64<<10)
	for range volume / len(piece) {
		if _, err := app.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	if err := app.(*net.TCPConn).CloseWrite(); err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, app); err != nil {
		b.Fatal(err)
	}
	return spent{time.Since(began), processorTime() - cpu}
}

// oneFlow sends a target a byte and waits for its answer.
func oneFlow(ctx context.Context, dial dialer, target string) error {
	c, err := dial(ctx, target)
	if err != nil {
		return err
	}
	defer c.Close() // again, at best
	if err := c.SetDeadline(time.Now().Add(fidelityLimit)); err != nil {
		return err
	}
	var one [1]byte
	if _, err := c.Write(one[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, one[:]); err != nil {
		return err
	}
	return c.Close()
}
