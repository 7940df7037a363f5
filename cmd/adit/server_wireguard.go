package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/adit-net/adit/crypto/wglink"
)

// wireGuard is where a server takes carriers over WireGuard.
type wireGuard struct {
	server *wglink.Server
	public [32]byte
	port   uint16 // 0: nowhere
}

// newWireGuard makes a process's WireGuard server, if its config wants one.
func (p *serverProcess) newWireGuard() (wireGuard, error) {
	if p.cfg.WireGuard.Listen == "" {
		return wireGuard{}, nil
	}
	key, err := p.key.WireGuard()
	if err != nil {
		return wireGuard{}, err
	}
	at, err := net.ResolveUDPAddr("udp", p.cfg.WireGuard.Listen)
	if err != nil {
		return wireGuard{}, err
	}
	s := wglink.NewServer(wglink.ServerConfig{Key: key, MTU: p.cfg.WireGuard.MTU, Log: p.log.Logger})
	return wireGuard{server: s, public: key.Public(), port: uint16(at.Port)}, nil
}

// serveWireGuard takes carriers over WireGuard until ctx ends or a successor has
// taken over. It has a socket of its own: the other's peers come back to that one.
func (p *serverProcess) serveWireGuard(ctx context.Context) error {
	if p.wireGuard.server == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	helpers.Go(func() {
		select {
		case <-p.succession.done:
			cancel()
		case <-ctx.Done():
		}
	})
	pc, err := p.listenWireGuard(ctx)
	if err != nil || pc == nil {
		return err
	}
	changed := make(chan struct{}, 1)
	helpers.Go(func() { p.keepPeers(ctx, changed) })
	watched := make(chan error, 1)
	helpers.Go(func() {
		watched <- p.store.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default: // it has not looked yet
			}
		})
		cancel()
	})
	err = p.wireGuard.server.Serve(ctx, pc, admitWireGuard(p))
	cancel()
	return errors.Join(err, <-watched)
}

// handOverLimit is how long a predecessor may keep the UDP port.
const handOverLimit = 30 * time.Second

// listenWireGuard opens the UDP port, for which it may have to wait until a
// predecessor has let go of it. It gives nil if ctx ends before that.
func (p *serverProcess) listenWireGuard(ctx context.Context) (net.PacketConn, error) {
	var config net.ListenConfig
	for began := time.Now(); ; {
		pc, err := config.ListenPacket(ctx, "udp", p.cfg.WireGuard.Listen)
		switch {
		case err == nil:
			return pc, nil
		case ctx.Err() != nil:
			return nil, nil
		case p.before == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Since(began) > handOverLimit:
			return nil, listenHint(err, p.cfg.WireGuard.Listen)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// parting is how long a device that may not come any more is still answered:
// until its session has ended, which takes a second, and it has been told why. It is let
// in to nothing. Silence would make it wait, and its apps with it.
const parting = 1500 * time.Millisecond

// keepPeers lets in every device that is enrolled, and none else, until ctx ends.
// It looks whenever something comes on changed.
func (p *serverProcess) keepPeers(ctx context.Context, changed <-chan struct{}) {
	var leave <-chan time.Time
	for {
		select {
		case <-changed:
			for _, key := range p.enrolled(ctx) {
				if err := p.wireGuard.server.AddPeer(key); err != nil {
					p.log.Error("let a device in by wireguard", "error", err)
				}
			}
			if leave == nil { // or each change would put it off
				leave = time.After(parting)
			}
		case <-leave:
			leave = nil
			// Whoever cannot be let in has been logged.
			_ = p.wireGuard.server.SetPeers(p.enrolled(ctx))
		case <-ctx.Done():
			return
		}
	}
}

// enrolled gives the WireGuard keys of the devices that may come. If it cannot
// be known, none may.
func (p *serverProcess) enrolled(ctx context.Context) (peers [][32]byte) {
	devices, err := p.store.Devices(ctx, "")
	if err != nil && ctx.Err() == nil {
		p.log.Error("list devices", "error", err)
	}
	for _, d := range devices {
		if !d.Revoked && !d.Guest() && d.WireGuard != [32]byte{} {
			peers = append(peers, d.WireGuard)
		}
	}
	return peers
}
