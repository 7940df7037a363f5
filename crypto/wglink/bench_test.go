package wglink

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// tunnel is two ends with WireGuard in between, over loopback.
type tunnel struct {
	dial   func(ctx context.Context) (net.Conn, error)
	accept func() (net.Conn, error)
	close  func()
	dialer *Dialer // nil in a stock tunnel
}

// stockTunnel is what comes with the WireGuard library.
func stockTunnel(t testing.TB) tunnel {
	t.Helper()
	near, far := netip.MustParseAddrPort("[fd00::1]:80"), netip.MustParseAddr("fd00::2")
	nearTUN, nearNet, err := netstack.CreateNetTUN([]netip.Addr{near.Addr()}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	farTUN, farNet, err := netstack.CreateNetTUN([]netip.Addr{far}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	nearKey, farKey := newKey(t), newKey(t)
	server := newDevice(t, nearTUN, nearKey, farKey, far.String()+"/128")
	client := newDevice(t, farTUN, farKey, nearKey, "::/0")
	state, err := server.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(state, "listen_port=")
	port, _, _ = strings.Cut(port, "\n")
	if err := client.IpcSet(fmt.Sprintf("public_key=%x\nendpoint=127.0.0.1:%s\n", nearKey.PublicKey().Bytes(), port)); err != nil {
		t.Fatal(err)
	}
	ln, err := nearNet.ListenTCPAddrPort(near)
	if err != nil {
		t.Fatal(err)
	}
	return tunnel{
		dial:   func(ctx context.Context) (net.Conn, error) { return farNet.DialContextTCPAddrPort(ctx, near) },
		accept: ln.Accept,
		close: func() {
			client.Close()
			server.Close()
		},
	}
}

// carrierTunnel is ours.
func carrierTunnel(t testing.TB) tunnel {
	t.Helper()
	conns := make(chan net.Conn)
	e := start(t, genuine(func(_ context.Context, c net.Conn) {
		closed := make(chan struct{})
		conns <- served{c, sync.OnceFunc(func() { close(closed) })}
		<-closed
	}))
	d := e.dialer(t)
	return tunnel{
		dial: func(ctx context.Context) (net.Conn, error) {
			c, err := d.Dial(ctx)
			if err != nil {
				return nil, err
			}
			conn, _, err := c.Attach(ctx, opening())
			return conn, err
		},
		accept: func() (net.Conn, error) { return <-conns, nil },
		close:  e.stop,
		dialer: d,
	}
}

// served is a carrier at the server, which has it until it is closed.
type served struct {
	net.Conn
	giveBack func()
}

func (s served) Close() error {
	defer s.giveBack()
	return s.Conn.Close()
}

func newKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newDevice(t testing.TB, end tun.Device, key, peer *ecdh.PrivateKey, allowed string) *device.Device {
	t.Helper()
	d := device.NewDevice(end, conn.NewStdNetBind(), device.NewLogger(device.LogLevelError, ""))
	err := d.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%x\nallowed_ip=%s\n", hex.EncodeToString(key.Bytes()), peer.PublicKey().Bytes(), allowed))
	if err == nil {
		err = d.Up()
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// measure sends for a while over a number of streams.
func measure(b *testing.B, t tunnel, streams int) {
	defer t.close()
	var all sync.WaitGroup
	var total atomic.Int64
	ctx, cancel := context.WithTimeout(b.Context(), time.Duration(b.N)*time.Second)
	defer cancel()
	began, busy := time.Now(), processorTime()
	for range streams {
		all.Go(func() {
			c, err := t.accept()
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			n, _ := io.CopyBuffer(io.Discard, struct{ io.Reader }{c}, make([]byte, 128<<10))
			total.Add(n)
		})
		all.Go(func() {
			c, err := t.dial(b.Context())
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			for buf := make([]byte, 128<<10); ctx.Err() == nil; {
				if _, err := c.Write(buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	gib := float64(total.Load()) / (1 << 30)
	b.ReportMetric(gib*8*1.073741824/time.Since(began).Seconds(), "Gbit/s")
	b.ReportMetric((processorTime()-busy).Seconds()/gib, "cpu-s/GiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStreams compares with the library's own stack in one run. Its
// figures mean something beside each other: run it with -benchtime 3x, for
// 3 s each.
func BenchmarkStreams(b *testing.B) {
	for _, streams := range []int{1, 8} {
		b.Run(fmt.Sprintf("stock-%d", streams), func(b *testing.B) { measure(b, stockTunnel(b), streams) })
		b.Run(fmt.Sprintf("adit-%d", streams), func(b *testing.B) { measure(b, carrierTunnel(b), streams) })
	}
}
