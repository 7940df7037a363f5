package gss

import (
	"io"
	"net"
	"strconv"
	"testing"

	"github.com/adit-net/adit/crypto/gss/cfx"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// BenchmarkStream carries bytes from a door to an app over loopback, with both ends'
// work in one process.
func BenchmarkStream(b *testing.B) {
	for _, kind := range []int32{17, 18, 19, 20} {
		for _, level := range []byte{1, 2} {
			b.Run(cfx.EncType(kind).String()+"/level "+strconv.Itoa(int(level)), func(b *testing.B) {
				benchmarkStream(b, kind, level)
			})
		}
	}
}

func benchmarkStream(b *testing.B, kind int32, level byte) {
	i := newIssuer(b)
	i.kind, i.ticket.Key, i.auth.SubKey = kind, freshKey(kind), freshKey(kind)
	a := newAcceptor(b, Config{})
	near, far := tcpPair(b)
	app := make(chan *cfx.Context, 1)
	go func() {
		defer close(app)
		if c, err := i.establish(b, far, level); err != nil {
			b.Error(err)
		} else {
			app <- c
		}
	}()
	channel, err := socks.NegotiateGSS(b.Context(), near, near, door{acceptor: a, protection: socks.GSSAsProposed}.accept)
	if err != nil {
		b.Fatal(err)
	}
	c, ok := <-app
	if !ok {
		b.FailNow()
	}
	const size = 64 << 10
	done := make(chan struct{})
	go func() {
		defer close(done)
		receive(b, far, c)
	}()
	conn, p := channel.Conn(near), make([]byte, size)
	b.SetBytes(size)
	for b.Loop() {
		if _, err := conn.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	if err := conn.CloseWrite(); err != nil {
		b.Fatal(err)
	}
	<-done
}

func tcpPair(t testing.TB) (a, b relay.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return relay.TCP(c.(*net.TCPConn)), relay.TCP(d.(*net.TCPConn))
}

// establish is the app's part of a negotiation.
func (i *issuer) establish(t testing.TB, c io.ReadWriter, level byte) (*cfx.Context, error) {
	if _, err := c.Write(message(1, i.token(t))); err != nil {
		return nil, err
	}
	reply, err := readMessage(c, nil)
	if err != nil {
		return nil, err
	}
	app := i.initiator(t, reply)
	if _, err := c.Write(message(2, app.Wrap(nil, []byte{level}, false))); err != nil {
		return nil, err
	}
	answer, err := readMessage(c, nil)
	if err != nil {
		return nil, err
	}
	_, _, err = app.Unwrap(answer)
	return app, err
}

func message(kind byte, token []byte) []byte {
	return append([]byte{1, kind, byte(len(token) >> 8), byte(len(token))}, token...)
}

// readMessage reads a message's token into buf, if there is room.
func readMessage(r io.Reader, buf []byte) ([]byte, error) {
	head := append(buf[:0], 0, 0, 0, 0)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := int(head[2])<<8 | int(head[3])
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	_, err := io.ReadFull(r, buf[:size])
	return buf[:size], err
}

// receive takes messages until their end.
func receive(t testing.TB, r io.Reader, app *cfx.Context) {
	buf := make([]byte, 1<<16)
	for {
		token, err := readMessage(r, buf)
		if err == io.EOF {
			return
		}
		if err == nil {
			_, _, err = app.Unwrap(token)
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}
