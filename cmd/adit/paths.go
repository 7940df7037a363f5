package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/crypto/ipsec"
	"github.com/adit-net/adit/server/door"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// The layer below is seen by package ipsec, and what it sees has names in rules and
// records. Here they meet.

// ipsecWord is what rules call a path's protection by IPsec: "ipsec:aes-gcm-128", which
// says the shorter "ipsec:aes-gcm" and "ipsec" as well; empty if there is none. Where
// the directions differ it says what is true of both.
func ipsecWord(p ipsec.Protection) string {
	switch p.Mechanism {
	case ipsec.None:
		return ""
	case ipsec.Stated:
		return "ipsec:stated"
	}
	out, in := p.Out.String(), p.In.String()
	for out != "" && out != in && !strings.HasPrefix(in, out+"-") && !strings.HasPrefix(in, out+"+") {
		out = out[:max(0, strings.LastIndexAny(out, "-+"))]
	}
	if out == "" {
		return "ipsec"
	}
	return "ipsec:" + out
}

// ipsecWords is ipsecWord where there may be others.
func ipsecWords(p ipsec.Protection) []string {
	if word := ipsecWord(p); word != "" {
		return []string{word}
	}
	return nil
}

// judge has the server judge an arrival, which is told what protects the path below the
// carrier as long as that lasts.
func (p *serverProcess) judge(ctx context.Context, a tunnel.Arrival) ([]byte, func(context.Context, net.Conn)) {
	// A device moves by WireGuard, and where it is is known only to the process that it comes to.
	if a.Below != nil || a.Protection.Carrier == overWireGuard {
		return p.server.Admit(ctx, a)
	}
	var path atomic.Pointer[ipsec.Followed]
	at := ipsec.Path{Local: a.Local, Remote: a.Remote}
	k := &keeper{paths: p.paths, path: at}
	a.Below = func() []string {
		if f := path.Load(); f != nil {
			return k.followed(f)
		}
		return k.look(ctx)
	}
	if a.Keep == nil {
		a.Keep = k.keep
	}
	answer, serve := p.server.Admit(ctx, a)
	if serve == nil {
		return answer, serve
	}
	return answer, func(ctx context.Context, conn net.Conn) {
		f := p.paths.Follow(ctx, at, nil)
		defer f.Stop()
		path.Store(f)
		k.use(conn)
		serve(ctx, conn)
	}
}

// keeper ties a connection to what protects its path, once. Its methods are safe for
// concurrent use.
type keeper struct {
	paths *ipsec.Paths
	path  ipsec.Path

	mu   sync.Mutex
	conn *net.TCPConn // nil: there is none
	kept bool
	peer string // whom the path ended at then; empty if that is not known
}

var errNoSocket = errors.New("the connection has no socket that could be tied to IPsec")

// use names the connection, which may be in another one.
func (k *keeper) use(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.conn == nil {
		switch below := c.(type) {
		case *net.TCPConn:
			k.conn = below
		case interface{ NetConn() net.Conn }:
			c = below.NetConn()
		default:
			return
		}
	}
}

func (k *keeper) keep() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.kept:
		return nil
	case k.conn == nil:
		return errNoSocket
	}
	raw, err := k.conn.SyscallConn()
	if err != nil {
		return err
	}
	f, err := k.paths.Tie(context.Background(), k.path, raw)
	if err != nil {
		return err
	}
	k.kept, k.peer = true, f.Protection().Peer
	f.Stop()
	return nil
}

// followed are the words for a path that is followed. Each flow asks for them, and for most there
// are none.
func (k *keeper) followed(f *ipsec.Followed) []string {
	if !f.Protected() {
		return nil
	}
	return k.words(f.Protection())
}

// look are the words for a path that is not followed yet.
func (k *keeper) look(ctx context.Context) []string {
	return k.words(k.paths.Look(context.WithoutCancel(ctx), k.path))
}

// words are those for what protects the path now. One that ends at somebody else than when it was
// tied, who may have the same address, is not protected.
func (k *keeper) words(now ipsec.Protection) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.peer != "" && now.Peer != "" && now.Peer != k.peer {
		return nil
	}
	return ipsecWords(now)
}

// guard has a listener take only what IPsec protects.
func (p *serverProcess) guard(ln net.Listener) net.Listener {
	var pace socks.Pace
	return p.paths.Guard(ln, func(remote net.Addr, why error) {
		if pace.Allows() {
			p.log.Warn("refused a connection", "listener", ln.Addr(), "remote", remote, "reason", why)
		}
	})
}

// belowDoor is what a door is told of the path of an app.
func (p *serverProcess) belowDoor(ctx context.Context, e socks.Entry, _ func()) door.Path {
	path := ipsec.Path{Local: e.Local, Remote: e.Source}
	f, k := p.paths.Follow(ctx, path, nil), &keeper{paths: p.paths, path: path}
	k.use(e.Conn)
	return door.Path{Words: func() []string { return k.followed(f) }, Keep: k.keep, Stop: f.Stop}
}

// belowGuardedDoor gives what is belowDoor where an app is lost whose path is not protected any
// more, and stays so for as long as patience says, or ends at somebody else.
func (p *serverProcess) belowGuardedDoor(patience time.Duration) func(ctx context.Context, e socks.Entry, lost func()) door.Path {
	return func(ctx context.Context, e socks.Entry, lost func()) door.Path {
		path := ipsec.Path{Local: e.Local, Remote: e.Source}
		g := guardedPath{peer: p.peerOf(ctx, e.Local, e.Source), patience: patience, lost: lost}
		g.waiting = time.AfterFunc(patience, func() {
			if !p.paths.Look(context.WithoutCancel(ctx), path).Protected() {
				lost()
			}
		})
		f := p.paths.Follow(ctx, path, g.see)
		if g.takenOver(f.Protection()) {
			lost()
		}
		return door.Path{
			Words: func() []string { return ipsecWords(f.Protection()) },
			Keep:  func() error { return nil }, // the listener has seen to it
			Stop: func() {
				f.Stop()
				g.waiting.Stop()
			},
		}
	}
}

// guardedPath is the path of an app at a door that requires IPsec.
type guardedPath struct {
	peer     string // whom it has ended at from the start; empty if that is not known
	patience time.Duration
	waiting  *time.Timer // for protection
	lost     func()
}

func (g *guardedPath) see(now ipsec.Protection) {
	switch {
	case !now.Protected():
		g.waiting.Reset(g.patience)
	case g.takenOver(now):
		g.lost()
	default:
		g.waiting.Stop()
	}
}

// takenOver tells whether the path ends at somebody else now, who may have the same address.
func (g *guardedPath) takenOver(now ipsec.Protection) bool {
	return g.peer != "" && now.Peer != "" && now.Peer != g.peer
}

// peerOf says who the other end of a path has proved to be by IKE; empty if that is not known.
func (p *serverProcess) peerOf(ctx context.Context, local, remote netip.AddrPort) string {
	return p.paths.Look(ctx, ipsec.Path{Local: local, Remote: remote}).Peer
}
