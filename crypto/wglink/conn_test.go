package wglink

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

func TestConnBehavesAsAnyOther(t *testing.T) {
	c := carrierTunnel(t)
	nettest.TestConn(t, func() (near, far net.Conn, stop func(), err error) {
		accepted := make(chan net.Conn, 1)
		go func() {
			conn, _ := c.accept()
			accepted <- conn
		}()
		near, err = c.dial(t.Context())
		if err != nil {
			return nil, nil, nil, err
		}
		far = <-accepted
		return near, far, func() {
			_ = near.Close()
			_ = far.Close()
		}, nil
	})
}

// ends gives both ends of a carrier.
func ends(t *testing.T, c tunnel) (near, far net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := c.accept()
		accepted <- conn
	}()
	near, err := c.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	far = <-accepted
	t.Cleanup(func() {
		_ = near.Close()
		_ = far.Close()
	})
	return near, far
}

func TestCloseIsReadAsAnEndBehindEverything(t *testing.T) {
	near, far := ends(t, carrierTunnel(t))
	want := randomBytes(1 << 20)
	read := make(chan []byte, 1)
	go func() {
		b, err := io.ReadAll(far)
		if err != nil {
			t.Errorf("Read gives %v", err)
		}
		read <- b
		_ = far.Close()
	}()
	if _, err := near.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-read; string(got) != string(want) {
		t.Errorf("%d of %d bytes came", len(got), len(want))
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close gives %v", err)
	}
}

func TestAbortIsReadAsAnError(t *testing.T) {
	near, far := ends(t, carrierTunnel(t))
	near.(*datagramConn).abort()
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read gives %v", err)
	}
}

func TestCloseWaitsForNobodyWhoDoesNotRead(t *testing.T) {
	near, _ := ends(t, carrierTunnel(t))
	_ = near.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		if _, err := near.Write(make([]byte, 1<<20)); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	_ = near.Close()
	if took := time.Since(began); took > 4*closeTimeout { // and the machine may be busy
		t.Errorf("Close took %v", took)
	}
}

// What comes with the library can panic here, as its Close closes a channel that its
// stack writes to.
func TestCloseUnderTrafficLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		e := start(t, genuine(func(ctx context.Context, c net.Conn) {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			var both sync.WaitGroup
			both.Go(func() { _, _ = io.Copy(io.Discard, c) })
			both.Go(func() { flood(c) })
			both.Wait()
		}))
		var busy sync.WaitGroup
		var conns []net.Conn
		for range 3 {
			d := e.dialer(t)
			for range 2 {
				c := attach(t, d)
				conns = append(conns, c)
				busy.Go(func() { _, _ = io.Copy(io.Discard, c) })
				busy.Go(func() { flood(c) })
			}
		}
		for i, c := range conns {
			if i%2 == 0 {
				busy.Go(func() { _ = c.Close() })
			} else {
				busy.Go(c.(*datagramConn).abort)
			}
		}
		// The carriers' ends and the server's race.
		e.stop()
		busy.Wait()
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, before there were %d", runtime.NumGoroutine(), before)
		}
	}
}

// flood writes until that fails.
func flood(c net.Conn) {
	for b := make([]byte, 64<<10); ; {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}
