package wglink

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/device"

	"github.com/adit-net/adit/crypto/keys"
)

// newPeer makes a bare engine that is one of the server's peers.
func (e *exit) newPeer(t *testing.T, key keys.WireGuardKey, address netip.Addr) *engine {
	t.Helper()
	s := newSocket(listen(t), clientInside)
	p, err := newEngine(s, key, address, toDevice, defaultMTU, deviceLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close) // closing again does nothing
	s.aim.Store(&remotes{all: []netip.AddrPort{netip.MustParseAddrPort(e.endpoint)}})
	if err := p.setPeer(e.key.Public(), []netip.Addr{serverAddress(e.key.Public())}, serverEndpoint); err != nil {
		t.Fatal(err)
	}
	return p
}

// A server that let it in would answer at the address of somebody else.
func TestPeerWithAnothersAddressIsNotHeard(t *testing.T) {
	e := start(t, genuine(echo))
	mallory, alice := e.dialer(t), e.dialer(t)
	attach(t, alice) // so that WireGuard has a way to her
	server := serverAddress(e.key.Public())
	to := netip.AddrPortFrom(server, carrierPort)
	for _, address := range []netip.Addr{
		deviceAddress(e.key.Public(), alice.Key.Public()),
		netip.MustParseAddr("fd00::5"),
		server.Next(),
	} {
		p := e.newPeer(t, mallory.Key, address)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if _, err := connect(ctx, p.stack, address, to); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("as %v: %v", address, err)
		}
		cancel()
		p.close()
	}
	own := deviceAddress(e.key.Public(), mallory.Key.Public())
	c, err := connect(t.Context(), e.newPeer(t, mallory.Key, own).stack, own, to)
	if err != nil {
		t.Fatal(err)
	}
	c.abort()
}

func TestServerListensOnOnePortInside(t *testing.T) {
	e := start(t, genuine(echo))
	key := e.dialer(t).Key
	own := deviceAddress(e.key.Public(), key.Public())
	p := e.newPeer(t, key, own)
	for _, port := range []uint16{1, 22, 80, carrierPort - 1, carrierPort + 1, 65535} {
		if _, err := connect(t.Context(), p.stack, own, netip.AddrPortFrom(serverAddress(e.key.Public()), port)); err == nil {
			t.Errorf("port %d is open", port)
		}
	}
}

func TestPeerHasFewConnectionsThatHaveNotOpened(t *testing.T) {
	e := start(t, genuine(echo))
	key := e.dialer(t).Key
	own := deviceAddress(e.key.Public(), key.Public())
	p := e.newPeer(t, key, own)
	to := netip.AddrPortFrom(serverAddress(e.key.Public()), carrierPort)
	for i := range 2 * maxOpening {
		c, err := connect(t.Context(), p.stack, own, to)
		if (err == nil) != (i < maxOpening) {
			t.Fatalf("connection %d: %v", i, err)
		}
		if err == nil {
			defer c.abort()
		}
	}
	attach(t, e.dialer(t)) // others are not held up
}

func TestPeersThatAreNotNamedAreRemoved(t *testing.T) {
	e := start(t, genuine(echo))
	stays, goes := e.dialer(t), e.dialer(t)
	kept, lost := attach(t, stays), attach(t, goes)
	joins := deviceKey(t)
	if err := e.SetPeers([][32]byte{stays.Key.Public(), joins.Public()}); err != nil {
		t.Fatal(err)
	}
	_ = lost.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := lost.Write([]byte("x")); err == nil {
		if _, err := lost.Read(make([]byte, 1)); err == nil {
			t.Error("a removed peer is still served")
		}
	}
	if _, err := kept.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	attach(t, &Dialer{Endpoint: e.endpoint, ServerKey: e.key.Public(), Key: joins, HandshakeTimeout: patience})
}

func TestIdlePeerIsTakenFromWireGuardAndComesBack(t *testing.T) {
	e := start(t, genuine(echo))
	d := e.dialer(t)
	c := attach(t, d)
	e.roster.sweep(time.Now().Add(time.Hour))
	if !e.knows(d.Key) {
		t.Error("a peer with a carrier was taken away")
	}
	_ = c.Close()
	for by := time.Now().Add(patience); e.knows(d.Key); time.Sleep(time.Millisecond) {
		if e.roster.sweep(time.Now().Add(time.Hour)); time.Now().After(by) {
			t.Fatal("an idle peer stays")
		}
	}
	attach(t, d)
}

// knows tells whether WireGuard knows a peer.
func (e *exit) knows(key keys.WireGuardKey) bool {
	e.roster.mu.Lock()
	defer e.roster.mu.Unlock()
	return e.roster.engine.device.LookupPeer(key.Public()) != nil
}

func TestPeersThatDoNotComeCostLittle(t *testing.T) {
	const peers, limit = 20_000, 1 << 10
	e := start(t, genuine(echo))
	all := make([][32]byte, peers)
	for i := range all {
		binary.BigEndian.PutUint32(all[i][:], uint32(i)+1)
	}
	before, goroutines := heap(), runtime.NumGoroutine()
	if err := e.SetPeers(all); err != nil {
		t.Fatal(err)
	}
	each := (heap() - before) / peers
	t.Logf("%d bytes each, %d goroutines in all", each, runtime.NumGoroutine()-goroutines)
	if each > limit || runtime.NumGoroutine() > goroutines {
		t.Errorf("a peer costs %d bytes; %d goroutines, before there were %d", each, runtime.NumGoroutine(), goroutines)
	}
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// initiation makes a handshake initiation with a timestamp of our choice.
func initiation(t *testing.T, from keys.WireGuardKey, server [32]byte, at time.Time) []byte {
	t.Helper()
	private := from.Reveal()
	static, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		t.Fatal(err)
	}
	to, err := ecdh.X25519().NewPublicKey(server[:])
	if err != nil {
		t.Fatal(err)
	}
	ephemeral := newKey(t)
	var chain, sum [blake2s.Size]byte
	var key [chacha20poly1305.KeySize]byte
	b := make([]byte, ephemeralAt, initiationSize)
	b[0], b[4] = messageInitiation, 77
	sum = mixHash(mixHash(device.InitialHash, server[:]), ephemeral.PublicKey().Bytes())
	b = append(b, ephemeral.PublicKey().Bytes()...)
	device.KDF1(&chain, device.InitialChainKey[:], ephemeral.PublicKey().Bytes())
	seal := func(mine *ecdh.PrivateKey, plain []byte) {
		shared, err := mine.ECDH(to)
		if err != nil {
			t.Fatal(err)
		}
		device.KDF2(&chain, &key, chain[:], shared)
		aead, err := chacha20poly1305.New(key[:])
		if err != nil {
			t.Fatal(err)
		}
		sealed := aead.Seal(nil, device.ZeroNonce[:], plain, sum[:])
		sum = mixHash(sum, sealed)
		b = append(b, sealed...)
	}
	seal(ephemeral, static.PublicKey().Bytes())
	stamp := binary.BigEndian.AppendUint64(nil, 0x400000000000000a+uint64(at.Unix()))
	seal(static, binary.BigEndian.AppendUint32(stamp, uint32(at.Nanosecond())))
	var macs device.CookieGenerator
	macs.Init(server)
	b = b[:initiationSize]
	macs.AddMacs(b)
	return b
}

// The device has been there with a clock that was ahead.
func TestClockSetBackFailsWithinTheTimeOutAndSaysSo(t *testing.T) {
	e := start(t, genuine(echo))
	d := e.dialer(t)
	d.HandshakeTimeout = 2 * time.Second
	raw, err := net.Dial("udp", e.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Write(initiation(t, d.Key, e.key.Public(), time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 200)
	_ = raw.SetReadDeadline(time.Now().Add(patience))
	if n, err := raw.Read(answer); err != nil || n != device.MessageResponseSize {
		t.Fatalf("the handshake of the future was not answered: %d bytes, %v", n, err)
	}
	began := time.Now()
	if _, err := d.Dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("Dial gives %v", err)
	}
	d.answered = time.Now().Add(time.Hour).Round(0) // what the Dialer itself remembers
	if _, err := d.Dial(t.Context()); !errors.Is(err, ErrClock) {
		t.Errorf("Dial gives %v", err)
	}
	if took := time.Since(began); took > 3*d.HandshakeTimeout {
		t.Errorf("it took %v", took)
	}
}

func TestReplayedHandshakeIsNotAnswered(t *testing.T) {
	e := start(t, genuine(echo))
	d := e.dialer(t)
	at := time.Now()
	first := initiation(t, d.Key, e.key.Public(), at)
	damaged := bytes.Clone(initiation(t, d.Key, e.key.Public(), at.Add(time.Second)))
	damaged[staticAt] ^= 1
	answered := func(message []byte) bool {
		raw, err := net.Dial("udp", e.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		if _, err := raw.Write(message); err != nil {
			t.Fatal(err)
		}
		_ = raw.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err = raw.Read(make([]byte, 200))
		return err == nil
	}
	if !answered(first) {
		t.Fatal("a genuine handshake is not answered")
	}
	if answered(first) {
		t.Error("a replay is answered")
	}
	// Not even when WireGuard has forgotten the peer.
	e.roster.sweep(time.Now().Add(time.Hour))
	if e.knows(d.Key) {
		t.Fatal("the peer was not swept")
	}
	if answered(first) || e.knows(d.Key) {
		t.Error("a replay is answered after the peer was swept")
	}
	if answered(damaged) {
		t.Error("a damaged handshake is answered")
	}
	if !answered(initiation(t, d.Key, e.key.Public(), at.Add(2*time.Second))) {
		t.Error("a later handshake is not answered")
	}
}

// 10,000 handshakes a second come from somebody who knows the server's key, and
// does not read cookies.
func TestFloodOfHandshakesLeavesCarriersAlone(t *testing.T) {
	e := start(t, genuine(echo))
	c := attach(t, e.dialer(t))
	stranger := initiation(t, deviceKey(t), e.key.Public(), time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	var flooding sync.WaitGroup
	defer flooding.Wait()
	defer cancel()
	flooding.Go(func() {
		raw, err := net.Dial("udp", e.endpoint)
		if err != nil {
			t.Error(err)
			return
		}
		defer raw.Close()
		for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-tick.C {
			for range 10 {
				_, _ = raw.Write(stranger)
			}
		}
	})
	before := heap()
	for range 20 {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	// Who comes gets in, once the cookie has been shown.
	attach(t, e.dialer(t))
}

func TestAddressesOfPeersAreTheirOwn(t *testing.T) {
	server := deviceKey(t).Public()
	at := serverAddress(server)
	if !at.IsPrivate() || at != serverAddress(server) || at == serverAddress(deviceKey(t).Public()) {
		t.Errorf("the server is at %v", at)
	}
	prefix := netip.PrefixFrom(at, 64)
	one, two := deviceAddress(server, deviceKey(t).Public()), deviceAddress(server, deviceKey(t).Public())
	if one == two || one == at || !prefix.Contains(one) || !prefix.Contains(two) {
		t.Errorf("peers are at %v and %v", one, two)
	}
	r := newRoster(server)
	key := deviceKey(t).Public()
	r.addresses[deviceAddress(server, key)] = &peer{}
	if err := r.add(key); !errors.Is(err, ErrAddress) {
		t.Errorf("add gives %v", err)
	}
}

// Whoever has shown a cookie goes first, but a server can stop under a flood of them.
func TestGateEndsThoughThereAreMoreToJudge(t *testing.T) {
	key := deviceKey(t)
	g, err := newGate(key, &socket{closed: make(chan struct{})}, newRoster(key.Public()), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range cap(g.proved) {
		g.proved <- lateMessage{from: netip.MustParseAddrPort("192.0.2.1:1")}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.run(ctx)
	if n := len(g.proved); n != cap(g.proved) {
		t.Errorf("it has judged %d before it ended", cap(g.proved)-n)
	}
}

func FuzzGate(f *testing.F) {
	f.Add(make([]byte, initiationSize))
	key, err := keys.NewDevice()
	if err != nil {
		f.Fatal(err)
	}
	r := newRoster(key.WireGuardPublic())
	s := &socket{closed: make(chan struct{})}
	g, err := newGate(key.WireGuard(), s, r, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m lateMessage
		copy(m.message[:], b)
		if g.admit(m) == nil {
			t.Error("it was taken")
		}
	})
}
