package tunnel_test

import (
	"io"
	"net"
	"testing"
)

// benchStreams moves bytes through n streams at once, over a bare TCP carrier.
func benchStreams(b *testing.B, n int) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	x, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	y, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	p := newPair(b, x, y, 0)
	defer p.stop()
	const piece = 64 << 10
	b.SetBytes(piece)
	done := make(chan error, n)
	for range n {
		from, to := p.open(b)
		count := b.N/n + 1
		go func() {
			buf := make([]byte, piece)
			for range count {
				if _, err := from.Write(buf); err != nil {
					break
				}
			}
			from.CloseWrite()
		}()
		go func() {
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{to}, make([]byte, piece))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOneStream(b *testing.B)    { benchStreams(b, 1) }
func BenchmarkEightStreams(b *testing.B) { benchStreams(b, 8) }

// BenchmarkOpen opens a stream, exchanges a byte and closes it.
func BenchmarkOpen(b *testing.B) {
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	defer ln.Close()
	x, _ := net.Dial("tcp", ln.Addr().String())
	y, _ := ln.Accept()
	p := newPair(b, x, y, 0)
	defer p.stop()
	buf := make([]byte, 1)
	for b.Loop() {
		c, s := p.open(b)
		c.Write(buf)
		io.ReadFull(s, buf)
		s.Write(buf)
		io.ReadFull(c, buf)
		c.Close()
		s.Close()
	}
}
