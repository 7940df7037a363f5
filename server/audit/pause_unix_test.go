//go:build unix

package audit

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
)

// TestConnectionsMoveWhileALargeBatchIsWritten has one processor, as a server with little to do.
// Without pauses Go looks at the network every 10 ms only, and a few echoes come back.
func TestConnectionsMoveWhileALargeBatchIsWritten(t *testing.T) {
	w := newWriter(t, Config{})
	var b batch
	for n := range maxBatch {
		b.records = append(b.records, &entry{Record: flowNumber(n), run: w.run, number: int64(n) + 1})
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	echoes, end := startEchoes(t)
	defer end()
	turn := &turn{day: w.day, ctx: t.Context(), now: w.now()}
	var during int64
	must(t, immediate(t.Context(), w.day.conn, func() error {
		before := echoes.Load()
		err := turn.run(&b)
		during = echoes.Load() - before // none of those while the disk is at work
		return err
	}))
	if during < 30 {
		t.Errorf("%d echoes have come back meanwhile", during)
	}
	w.day.last = turn.sealed
	must(t, w.Close())
	verifySound(t, w.cfg.Dir)
}

// startEchoes sends a byte to and fro over a connection until end is called, and counts how often.
func startEchoes(t *testing.T) (count *atomic.Int64, end func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	app, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	target, err := ln.Accept()
	must(t, err)
	count = new(atomic.Int64)
	over := make(chan struct{}, 2)
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{target}, struct{ io.Reader }{target}, make([]byte, 1))
		over <- struct{}{}
	}()
	go func() {
		var one [1]byte
		for {
			if _, err := app.Write(one[:]); err != nil {
				break
			}
			if _, err := io.ReadFull(app, one[:]); err != nil {
				break
			}
			count.Add(1)
		}
		over <- struct{}{}
	}()
	return count, func() {
		app.Close()
		target.Close()
		<-over
		<-over
	}
}
