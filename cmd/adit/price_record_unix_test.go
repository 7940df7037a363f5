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

// BenchmarkPriceOfRecording opens and ends the same flows through a server that records them
// and through one that does not, in turns, each with a client of its own and real sockets on
// loopback. It gives what recording costs as the median ratio of neighbours: 1.00 is
// nothing. Processor time is that of all there is: apps, client, server and targets.
func BenchmarkPriceOfRecording(b *testing.B) {
	flows, rounds := 20_000, 9
	if testing.Short() {
		flows, rounds = 4_000, 5
	}
	target := startTargets(b, "127.0.0.1:0")
	var chains [2]*chain
	for i, mode := range []string{auditOff, auditLenient} {
		chains[i] = startChainWith(b, defaultServerConfig(), "[audit]", "mode = "+strconv.Quote(mode))
	}
	for range b.N {
		var speed, cpu, each []float64
		for round := range rounds + 1 {
			var cost [2]spent
			order := []int{0, 1}
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, i := range order {
				cost[i] = chains[i].spend(b, target, flows)
			}
			if round == 0 {
				continue // files and caches grow
			}
			off, on := cost[0], cost[1]
			speed = append(speed, off.wall.Seconds()/on.wall.Seconds())
			cpu = append(cpu, on.cpu.Seconds()/off.cpu.Seconds())
			each = append(each, float64((on.cpu-off.cpu).Nanoseconds())/float64(flows))
			b.Logf("recorded %v, %v of processor; not %v, %v", on.wall, on.cpu, off.wall, off.cpu)
		}
		b.ReportMetric(median(speed), "speed-ratio")
		b.ReportMetric(median(cpu), "cpu-ratio")
		b.ReportMetric(median(each), "cpu-ns/flow")
		b.ReportMetric(0, "ns/op")
	}
}

// startTargets answers one byte to each connection, and gives its address.
func startTargets(t testing.TB, address string) string {
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
				var one [1]byte
				if _, err := io.ReadFull(c, one[:]); err == nil {
					_, _ = c.Write(one[:])
					_, _ = c.Read(one[:])
				}
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
