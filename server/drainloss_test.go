package server

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestDrainWaitsForTargetsThatReadSlowly has a target that says all it has to
// say at once, and reads late what the app has sent before its end.
func TestDrainWaitsForTargetsThatReadSlowly(t *testing.T) {
	h := newHouse(t, nil)
	release, got := make(chan struct{}), make(chan int64, 1)
	port := target(t, func(c *net.TCPConn) {
		_ = c.SetReadBuffer(64 << 10)
		_ = c.CloseWrite()
		<-release
		n, err := io.Copy(io.Discard, c)
		if err != nil {
			t.Errorf("the target reads: %v", err)
		}
		got <- n
	})
	g := h.attach(h.device("anna"))
	stream := g.connect(port)
	var sent int64
	stream.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for {
		n, err := stream.Write(make([]byte, 16<<10))
		sent += int64(n)
		if err != nil {
			break
		}
	}
	stream.SetWriteDeadline(time.Time{})
	h.must(stream.CloseWrite())
	if _, err := io.ReadAll(stream); err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	go func() { drained <- h.Drain(t.Context()) }()
	receive(t, g.Draining(), "the drain")
	select {
	case <-g.served:
		t.Error("the session has ended before its flow")
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	if n := receive(t, got, "the target's end"); n != sent {
		t.Errorf("the target has got %d bytes of %d", n, sent)
	}
	if err := receive(t, drained, "the end of the drain"); err != nil {
		t.Error(err)
	}
}
