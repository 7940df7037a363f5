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
	watched := make(chan error, 1)
	helpers.Go(func() {
		watched <- p.store.Watch(ctx, func() { p.knowPeers(ctx) })
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

// knowPeers lets in every device that is enrolled.
func (p *serverProcess) knowPeers(ctx context.Context) {
	devices, err := p.store.Devices(ctx, "")
	if err != nil {
		if ctx.Err() == nil {
			p.log.Error("list devices", "error", err)
		}
		return
	}
	var peers [][32]byte
	for _, d := range devices {
		if !d.Revoked && d.WireGuard != [32]byte{} {
			peers = append(peers, d.WireGuard)
		}
	}
	if err := p.wireGuard.server.SetPeers(peers); err != nil {
		p.log.Error("let a device in by wireguard", "error", err)
	}
}
