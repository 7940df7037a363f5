package main

import (
	"bufio"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"
)

// TestKilledSessionIsAResetForEverybody kills the connection between client and
// server under a hundred transfers, where the server gives it no grace. None of them
// may look complete to anybody.
func TestKilledSessionIsAResetForEverybody(t *testing.T) {
	cfg := defaultServerConfig()
	cfg.Grace.Duration = 0
	c := startChainWith(t, cfg)
	const transfers = 100
	ends := make(chan error, 2*transfers)
	for range transfers {
		p := c.pair(t)
		go func() {
			// A body without a length: only its end says that it is whole.
			// It moves all the time, but leaves the machine some air.
			for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
				if _, err := p.target.Write(make([]byte, 4<<10)); err != nil {
					ends <- err
					return
				}
			}
		}()
		if _, err := io.ReadFull(p.app, make([]byte, 4<<10)); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := io.Copy(io.Discard, p.app)
			ends <- err // nil is a clean end
		}()
	}
	// A client is fast enough to come back before the server has seen that it was
	// lost. Then nothing is.
	c.line.close()
	for range 2 * transfers {
		if err := wait(t, ends, "the end of a transfer"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("a transfer ends with %v, want a reset", err)
		}
	}
	c.line.open()
	// What comes afterwards goes through the next session.
	p := c.pair(t)
	go p.target.Write([]byte("hello"))
	if _, err := io.ReadFull(p.app, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestResetCrossesAtOnce(t *testing.T) {
	c := startChain(t)
	for i := range 200 {
		p := c.pair(t)
		from, to := p.app, p.target
		if i%2 == 1 {
			from, to = to, from
		}
		reset(from)
		began := time.Now()
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("trial %d: Read = %v, want a reset", i, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("trial %d: the reset took %v", i, took)
		}
	}
}

func TestManyTinyWritesArrive(t *testing.T) {
	c := startChain(t)
	p := c.pair(t)
	const writes = 100_000
	go func() {
		for i := range writes {
			if _, err := p.app.Write([]byte{byte(i)}); err != nil {
				return
			}
		}
		p.app.CloseWrite()
	}()
	in := bufio.NewReader(p.target)
	for i := range writes {
		if b, err := in.ReadByte(); err != nil || b != byte(i) {
			t.Fatalf("byte %d is %d, %v", i, b, err)
		}
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after the last byte: %v, want io.EOF", err)
	}
}
