package wglink

import (
	"context"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ratelimiter"
	"golang.zx2c4.com/wireguard/tai64n"

	"github.com/adit-net/adit/crypto/keys"
)

const (
	// waiting is how many handshake initiations may wait for the gate. What
	// comes when it is full is lost, and who has sent it tries again.
	waiting = 256

	// crowded is how many may wait before the gate asks whoever comes to prove
	// by a cookie that the address is theirs (WireGuard's paper, section 5.3),
	// and for how long it does so.
	crowded    = waiting / 8
	crowdedFor = time.Second
)

// Places in a handshake initiation (WireGuard's paper, section 5.4.2).
const (
	senderAt    = 4
	ephemeralAt = 8
	staticAt    = 40
	timestampAt = 88
	mac1At      = 116
)

// gate looks at handshake initiations before WireGuard does. So WireGuard need
// not know all the peers that there could be: each costs it two goroutines and
// some 30 KiB, and it gets to know those who come.
type gate struct {
	key     *ecdh.PrivateKey
	hash    [blake2s.Size]byte // the handshake's, as far as it is always the same
	cookies device.CookieChecker
	rate    ratelimiter.Ratelimiter
	queue   chan lateMessage // of whoever comes
	proved  chan lateMessage // of whoever has shown a cookie: a flood of others does not keep them out
	socket  *socket
	roster  *roster
	log     *slog.Logger

	crowd atomic.Int64 // when it was last crowded, in Unix nanoseconds
}

func newGate(key keys.WireGuardKey, s *socket, r *roster, log *slog.Logger) (*gate, error) {
	private, public := key.Reveal(), key.Public()
	secret, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return nil, err
	}
	g := &gate{key: secret, queue: make(chan lateMessage, waiting), proved: make(chan lateMessage, waiting), socket: s, roster: r, log: log}
	g.hash = mixHash(device.InitialHash, public[:])
	g.cookies.Init(public)
	s.initiations = g.take
	return g, nil
}

// take queues an initiation. It is called where packets of all peers come in, so
// it does cheap checks only.
func (g *gate) take(message []byte, from netip.AddrPort) (pass bool) {
	if !g.cookies.CheckMAC1(message) {
		return false
	}
	queue := g.queue
	if g.crowded() && g.cookies.CheckMAC2(message, (&remote{from}).DstToBytes()) {
		queue = g.proved
	}
	select {
	case queue <- lateMessage{[initiationSize]byte(message), from}:
	default:
	}
	return false
}

// crowded tells whether whoever comes has to show a cookie.
func (g *gate) crowded() bool {
	now := time.Now().UnixNano()
	if len(g.queue) >= crowded {
		g.crowd.Store(now)
		return true
	}
	return now-g.crowd.Load() < int64(crowdedFor)
}

// run judges initiations until ctx ends. One goroutine does, so that a flood
// of them takes no more than one processor.
func (g *gate) run(ctx context.Context) {
	g.rate.Init()
	defer g.rate.Close()
	for ctx.Err() == nil {
		select {
		case m := <-g.proved:
			g.judge(m, true)
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return
		case m := <-g.proved:
			g.judge(m, true)
		case m := <-g.queue:
			g.judge(m, false)
		}
	}
}

func (g *gate) judge(m lateMessage, proved bool) {
	if f := g.socket.fence; f != nil && !f.admits(m.from) {
		g.log.Debug("wireguard handshake refused", "remote", m.from, "error", errFenced)
		return
	}
	if !proved && g.crowded() {
		g.sendCookie(m, &remote{m.from})
		return
	}
	if proved && !g.rate.Allow(m.from.Addr()) {
		return
	}
	if err := g.admit(m); err != nil {
		g.log.Debug("wireguard handshake refused", "remote", m.from, "error", err)
		return
	}
	g.socket.deliver(m)
}

func (g *gate) sendCookie(m lateMessage, to *remote) {
	reply, err := g.cookies.CreateReply(m.message[:], binary.LittleEndian.Uint32(m.message[senderAt:]), to.DstToBytes())
	if err != nil {
		g.log.Error("make wireguard cookie", "error", err)
		return
	}
	b := make([]byte, 0, device.MessageCookieReplySize)
	b = binary.LittleEndian.AppendUint32(b, reply.Type)
	b = binary.LittleEndian.AppendUint32(b, reply.Receiver)
	b = append(append(b, reply.Nonce[:]...), reply.Cookie[:]...)
	_ = g.socket.Send([][]byte{b}, to) // who gets none tries again
}

// Reasons to refuse a handshake.
var (
	errGarbled  = errors.New("it is not for this server")
	errStranger = errors.New("the key is not known")
	errReplayed = errors.New("it is a replay, or the peer's clock has been set back")
)

// admit tells whether an initiation comes from a peer that we know, and is its
// latest. Then WireGuard gets to know the peer, if it does not.
func (g *gate) admit(m lateMessage) error {
	public, chain, sum, err := g.open(m.message[:])
	if err != nil {
		return errGarbled
	}
	return g.roster.greet(public, m.from, func(shared *[32]byte) (stamp tai64n.Timestamp, err error) {
		if *shared == [32]byte{} {
			if *shared, err = g.shared(public[:]); err != nil {
				return stamp, errGarbled
			}
		}
		var key [chacha20poly1305.KeySize]byte
		device.KDF2(&chain, &key, chain[:], shared[:])
		return stamp, unseal(stamp[:0], key, m.message[timestampAt:mac1At], sum)
	})
}

// open reads who sends an initiation, and gives what the handshake's chain and
// hash are then.
func (g *gate) open(b []byte) (public [32]byte, chain, sum [blake2s.Size]byte, err error) {
	ephemeral, static := b[ephemeralAt:staticAt], b[staticAt:timestampAt]
	sum = mixHash(g.hash, ephemeral)
	device.KDF1(&chain, device.InitialChainKey[:], ephemeral)
	shared, err := g.shared(ephemeral)
	if err != nil {
		return public, chain, sum, err
	}
	var key [chacha20poly1305.KeySize]byte
	device.KDF2(&chain, &key, chain[:], shared[:])
	if err := unseal(public[:0], key, static, sum); err != nil {
		return public, chain, sum, err
	}
	return public, chain, mixHash(sum, static), nil
}

// shared is what X25519 gives for a public key and ours.
func (g *gate) shared(public []byte) ([32]byte, error) {
	key, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return [32]byte{}, err
	}
	secret, err := g.key.ECDH(key)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(secret), nil
}

// unseal appends what is sealed in b to dst, which has room for it.
func unseal(dst []byte, key [chacha20poly1305.KeySize]byte, b []byte, sum [blake2s.Size]byte) error {
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		return err
	}
	_, err = aead.Open(dst, device.ZeroNonce[:], b, sum[:])
	return err
}

func mixHash(h [blake2s.Size]byte, data []byte) [blake2s.Size]byte {
	return blake2s.Sum256(append(h[:], data...))
}
