//go:build unix

package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func TestASocketIsReadAsItsConnectionIs(t *testing.T) {
	near, far := tcpPair(t)
	c := TCP(near)
	buf := make([]byte, 8)
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	c.SetReadDeadline(time.Unix(1, 0))
	if n, err := c.Read(buf); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("too late: %d, %v", n, err)
	}
	c.SetReadDeadline(time.Time{})
	if _, err := io.WriteString(far, "hello"); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); string(buf[:n]) != "hello" || err != nil {
		t.Errorf("words: %q, %v", buf[:n], err)
	}
	far.CloseWrite()
	if n, err := c.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("the end: %d, %v", n, err)
	}
	c.Close()
	if n, err := c.Read(buf); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %d, %v", n, err)
	}

	near, far = tcpPair(t)
	c = TCP(near)
	far.SetLinger(0)
	far.Close()
	if n, err := c.Read(buf); n != 0 || err == nil || err == io.EOF {
		t.Errorf("reset: %d, %v", n, err)
	}
	if _, err := c.Write(buf); err == nil {
		t.Error("reset: it can be written to")
	}
}

func BenchmarkSocket(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer near.Close()
	far, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer far.Close()
	from, to := TCP(near.(*net.TCPConn)), TCP(far.(*net.TCPConn))
	word := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := to.Write(word); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(from, word); err != nil {
			b.Fatal(err)
		}
	}
}
