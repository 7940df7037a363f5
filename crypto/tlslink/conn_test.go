package tlslink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// pair gives both ends of an open carrier.
func pair(t testing.TB, fingerprint string) (client, server net.Conn, stop func()) {
	t.Helper()
	served := make(chan net.Conn, 1)
	done := make(chan struct{})
	e := start(t, &Server{}, genuine(func(_ context.Context, c net.Conn) {
		served <- c
		<-done
	}))
	client = e.attach(t, fingerprint)
	server = <-served
	return client, server, sync.OnceFunc(func() {
		_ = client.Close()
		_ = server.Close()
		close(done)
		e.stop()
	})
}

func TestCarrierIsANetConn(t *testing.T) {
	for _, fingerprint := range []string{"chrome", "go"} {
		t.Run(fingerprint, func(t *testing.T) {
			t.Run("client first", func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					c, s, stop := pair(t, fingerprint)
					return c, s, stop, nil
				})
			})
			t.Run("server first", func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					c, s, stop := pair(t, fingerprint)
					return s, c, stop, nil
				})
			})
		})
	}
}

// A stream stays whole, whatever deadlines cut its writes off.
func TestWriteThatTimesOutHasTakenWhatItReports(t *testing.T) {
	client, server, stop := pair(t, "chrome")
	defer stop()
	sent := make(chan []byte, 1)
	full := make(chan struct{}) // closed when a write has timed out
	once := sync.OnceFunc(func() { close(full) })
	go func() {
		defer once()
		var all []byte
		for i := range 40 {
			part := bytes.Repeat([]byte{byte(i)}, 300_000+i)
			for len(part) > 0 {
				// Too short for all of it, as the other end does not read yet.
				_ = client.SetWriteDeadline(time.Now().Add(time.Millisecond))
				n, err := client.Write(part)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					once()
				} else if err != nil {
					t.Errorf("Write: %v", err)
					break
				}
				all, part = append(all, part[:n]...), part[n:]
			}
		}
		_ = client.SetWriteDeadline(time.Time{})
		if err := client.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		sent <- all
	}()
	<-full
	got, err := io.ReadAll(server)
	if err != nil {
		t.Error(err)
	}
	if want := <-sent; !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, and are not the %d that were written", len(got), len(want))
	}
}

// counted counts system calls of a connection below TLS.
type counted struct {
	net.Conn
	writes, reads, closes atomic.Int32
}

func (c *counted) Write(p []byte) (int, error) { c.writes.Add(1); return c.Conn.Write(p) }
func (c *counted) Read(p []byte) (int, error)  { c.reads.Add(1); return c.Conn.Read(p) }
func (c *counted) Close() error                { c.closes.Add(1); return c.Conn.Close() }

func TestBurstIsOneWriteBelow(t *testing.T) {
	e := start(t, &Server{}, genuine(func(_ context.Context, c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
	}))
	for _, fingerprint := range fingerprints {
		below := &counted{}
		d := e.dialer(fingerprint)
		d.DialTCP = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			below.Conn = c
			return below, err
		}
		c, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := c.Attach(t.Context(), opening())
		if err != nil {
			t.Fatal(err)
		}
		for size, want := range map[int]int32{0: 0, 1: 1, record: 1, record + 1: 1, burst: 1, burst + 1: 2, 4 * burst: 4} {
			before := below.writes.Load()
			if _, err := conn.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if got := below.writes.Load() - before; got != want {
				t.Errorf("%s: %d bytes are written by %d calls, want %d", fingerprint, size, got, want)
			}
		}
		if err := errors.Join(conn.Close(), conn.Close(), c.Close()); err != nil {
			t.Errorf("%s: closing again: %v", fingerprint, err)
		}
		if n := below.closes.Load(); n != 1 {
			t.Errorf("%s: the connection below was closed %d times", fingerprint, n)
		}
	}
}

func TestRecordsAreFullFromTheStart(t *testing.T) {
	e := start(t, &Server{}, genuine(func(_ context.Context, c net.Conn) {
		_, _ = c.Write(make([]byte, burst))
		_, _ = io.Copy(io.Discard, c)
	}))
	conn := asConn(e.attach(t, "chrome")).Conn
	buf := make([]byte, burst)
	for range burst / record {
		if n, err := conn.Read(buf); n != record || err != nil {
			t.Fatalf("Read gives %d bytes, %v, want a record of %d", n, err, record)
		}
	}
	up := make(chan int, 1)
	e = start(t, &Server{}, genuine(func(_ context.Context, c net.Conn) {
		n, _ := asConn(c).Conn.Read(make([]byte, burst))
		up <- n
	}))
	if _, err := e.attach(t, "chrome").Write(make([]byte, burst)); err != nil {
		t.Fatal(err)
	}
	if n := <-up; n != record {
		t.Errorf("Read gives %d bytes, want a record of %d", n, record)
	}
}

// stuff writes until nothing goes any more.
func stuff(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for err := error(nil); err == nil; {
		_, err = c.Write(make([]byte, burst))
	}
	if err := c.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func TestCloseFreesWhoIsStuckAndIsNotStuckItself(t *testing.T) {
	for name, stuck := range map[string]struct{ server, write bool }{
		"client, reading":             {},
		"client, reading and writing": {write: true},
		"server, reading":             {server: true},
		"server, reading and writing": {server: true, write: true},
	} {
		t.Run(name, func(t *testing.T) {
			c, server, stop := pair(t, "chrome")
			defer stop()
			if stuck.server {
				c = server
			}
			stuff(t, c)
			var users sync.WaitGroup
			entered := make(chan struct{}, 2)
			users.Go(func() {
				entered <- struct{}{}
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Error("Read gives a byte")
				}
			})
			<-entered
			if stuck.write {
				users.Go(func() {
					entered <- struct{}{}
					if _, err := c.Write(make([]byte, burst)); err == nil {
						t.Error("Write succeeds")
					}
				})
				<-entered
			}
			begun := time.Now()
			_ = c.Close() // may say that the alert did not get out
			if took := time.Since(begun); took > closeTimeout+time.Second {
				t.Errorf("Close took %v", took)
			}
			users.Wait()
			if _, err := c.Write([]byte{1}); err == nil {
				t.Error("Write after Close succeeds")
			}
		})
	}
}

func TestCleanEndIsTold(t *testing.T) {
	client, server, stop := pair(t, "chrome")
	defer stop()
	if _, err := client.Write([]byte("bye")); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(server); string(got) != "bye" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCutConnectionIsNoCleanEnd(t *testing.T) {
	client, server, stop := pair(t, "chrome")
	defer stop()
	if err := asConn(client).wire.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(server); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestIdleCarrierHoldsNoBuffers(t *testing.T) {
	client, server, stop := pair(t, "chrome")
	defer stop()
	go func() { _, _ = io.Copy(server, server) }()
	roundTrip(t, client, 1<<20)
	w := asConn(client).wire
	if w.in != nil || w.out != nil || w.poll == nil {
		t.Errorf("reading ahead %v, writing %v, poll %v", w.in != nil, w.out != nil, w.poll)
	}
}

func TestCarrierRunsOverAnyConnection(t *testing.T) {
	e := start(t, &Server{}, genuine(echo))
	d := e.dialer("chrome")
	d.DialTCP = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return &counted{Conn: c}, err // hides the socket
	}
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := c.Attach(t.Context(), opening())
	if err != nil {
		t.Fatal(err)
	}
	if asConn(conn).wire.poll != nil {
		t.Error("the connection was bypassed")
	}
	roundTrip(t, conn, 1<<20)
	_ = conn.Close()
}

// BenchmarkCarrier measures one direction over loopback, in writes of 64 KiB,
// next to crypto/tls as it comes.
func BenchmarkCarrier(b *testing.B) {
	for _, fingerprint := range []string{"chrome", "go"} {
		b.Run("up/"+fingerprint, func(b *testing.B) {
			client, server, stop := pair(b, fingerprint)
			defer stop()
			transfer(b, client, server)
		})
		b.Run("down/"+fingerprint, func(b *testing.B) {
			client, server, stop := pair(b, fingerprint)
			defer stop()
			transfer(b, server, client)
		})
	}
	b.Run("crypto-tls", func(b *testing.B) {
		_, cert := newCertificate(b, "exit.test")
		ln := listen(b)
		defer ln.Close()
		accepted := make(chan net.Conn, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				b.Error(err)
			}
			accepted <- tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		}()
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		plain := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		defer plain.Close()
		server := <-accepted
		defer server.Close()
		transfer(b, plain, server)
	})
}

func transfer(b *testing.B, from, to net.Conn) {
	b.SetBytes(burst)
	b.ReportAllocs()
	var reader sync.WaitGroup
	reader.Go(func() {
		if _, err := io.CopyN(io.Discard, onlyReader{to}, int64(b.N)*burst); err != nil {
			b.Error(err)
		}
	})
	p := make([]byte, burst)
	for range b.N {
		if _, err := from.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	reader.Wait()
}

type onlyReader struct{ io.Reader }

func asConn(c net.Conn) *conn {
	if e, ok := c.(eagerConn); ok {
		return e.conn
	}
	return c.(*conn)
}
