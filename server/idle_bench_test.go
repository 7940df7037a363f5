package server

import (
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/adit-net/adit/server/audit"
)

// BenchmarkIdleFlow measures what a flow on record holds that nothing moves on: at the server,
// with the stream at the other end and the target's socket, which have no goroutine.
func BenchmarkIdleFlow(b *testing.B) {
	const flows = 500
	w, err := audit.Open(b.Context(), audit.Config{Dir: filepath.Join(b.TempDir(), "audit"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	h := newHouse(b, func(c *Config) { c.Audit, c.Log = w, slog.New(slog.DiscardHandler) })
	h.running.Go(func() { h.must(w.Serve(h.ctx)) })
	port := quietTarget(b)
	g := h.attach(h.device("anna"))
	var heap, stacks uint64
	for b.Loop() {
		before := settledMemory()
		all := make([]io.Closer, 0, flows)
		for range flows {
			s := g.connect(port)
			_, err := s.Write([]byte("x"))
			h.must(err)
			_, err = io.ReadFull(s, make([]byte, 1))
			h.must(err)
			all = append(all, s)
		}
		after := settledMemory()
		heap += after.HeapAlloc - before.HeapAlloc
		stacks += after.StackInuse - before.StackInuse
		for _, s := range all {
			s.Close()
		}
	}
	b.ReportMetric(float64(heap)/float64(b.N*flows), "heap-B/flow")
	b.ReportMetric(float64(stacks)/float64(b.N*flows), "stack-B/flow")
	g.Close(0)
	h.stop()
	h.must(w.Close())
}

// quietTarget echoes the first byte of each connection, and keeps them all until the end.
func quietTarget(b *testing.B) (port uint16) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		var all []net.Conn
		for {
			c, err := ln.Accept()
			if err != nil {
				break
			}
			_, _ = io.CopyN(c, c, 1)
			all = append(all, c)
		}
		for _, c := range all {
			c.Close()
		}
	}()
	b.Cleanup(func() { ln.Close(); <-over })
	return addrPort(ln.Addr()).Port()
}

// settledMemory is what is in use when all that waits has been taken for idle.
func settledMemory() (m runtime.MemStats) {
	time.Sleep(500 * time.Millisecond)
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}
