package main

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/wglink"
	"github.com/adit-net/adit/server/guest"
	"github.com/adit-net/adit/server/users"
)

// wireGuard is where a server takes carriers over WireGuard, and guests.
type wireGuard struct {
	key     keys.WireGuardKey // zero: nowhere
	at      netip.AddrPort    // over UDP
	network guestNetwork
	server  *wglink.Server
	host    *guestHost
}

// newWireGuard says what a process's WireGuard will be like, if its config wants one.
func (p *serverProcess) newWireGuard() (w wireGuard, err error) {
	if p.cfg.WireGuard.Listen == "" {
		return wireGuard{}, nil
	}
	if w.key, err = p.key.WireGuard(); err != nil {
		return wireGuard{}, err
	}
	if w.at, err = ownPort(p.cfg.WireGuard.Listen); err != nil {
		return wireGuard{}, err
	}
	w.network, err = newGuestNetwork(p.cfg.WireGuard, w.key.Public())
	return w, err
}

// public is the key that devices are told; zeros if there is none.
func (w wireGuard) public() [32]byte { return w.key.Public() }

// own is what must not be a target.
func (w wireGuard) own() []netip.AddrPort {
	if w.key.IsZero() {
		return nil
	}
	return []netip.AddrPort{w.at}
}

// openWireGuard makes the WireGuard server of a process that is about to serve.
func (p *serverProcess) openWireGuard() {
	w := &p.wireGuard
	if w.key.IsZero() {
		return
	}
	w.host = &guestHost{exit: &p.exit, log: p.log.Logger}
	p.trails = &trails{paths: p.paths, port: w.at.Port(), changed: p.server.PathsChanged}
	cfg := wglink.ServerConfig{
		Key:     w.key,
		MTU:     p.cfg.WireGuard.MTU,
		PathMTU: p.trails.mtu,
		Moved:   p.trails.look,
		Host:    w.host,
		Inner:   w.network.inner(),
		Log:     p.log.Logger,
	}
	if p.cfg.RequireIPsec {
		cfg.Guard = p.trails.guard
	}
	w.server = wglink.NewServer(cfg)
	w.host.guests = guest.NewRegister(guest.Config{Server: p.server, Users: p.store, Present: w.present, Below: p.trails.follow, Log: p.log.Logger})
}

// present tells where guests are.
func (w *wireGuard) present() map[[32]byte]guest.Presence {
	all := make(map[[32]byte]guest.Presence)
	for key, at := range w.server.Present() {
		all[key] = guest.Presence(at)
	}
	return all
}

// serveWireGuard takes carriers over WireGuard, and guests, until ctx ends or a successor has
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
	helpers.Go(func() { p.wireGuard.host.guests.Serve(ctx) })
	defer p.wireGuard.host.closing.Wait()
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
	err = p.wireGuard.server.Serve(ctx, pc, p.admitWireGuard)
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

// retry is how soon the store is asked again that has given no answer.
const retry = time.Second

// keepPeers lets in every device that may come, and none else, until ctx ends. It
// looks whenever something comes on changed.
func (p *serverProcess) keepPeers(ctx context.Context, changed <-chan struct{}) {
	present := peers{in: make(map[[32]byte]users.Device), parts: make(map[[32]byte]time.Time)}
	late := time.NewTimer(0)
	defer late.Stop()
	for {
		select {
		case <-changed:
		case <-late.C:
		case <-ctx.Done():
			return
		}
		may, known := p.enrolled(ctx)
		next := present.update(time.Now(), may)
		if !known {
			next = min(next, retry)
		}
		late.Reset(next)
		p.admitPeers(present.in, may)
	}
}

// peers are the devices that are answered, by their keys for WireGuard.
type peers struct {
	in    map[[32]byte]users.Device
	parts map[[32]byte]time.Time // when those go that may not come any more
}

// update takes in who may come, and says when the next one goes who may not.
func (p *peers) update(now time.Time, may map[[32]byte]users.Device) (next time.Duration) {
	maps.Copy(p.in, may)
	next = time.Hour
	for key := range p.in {
		if _, ok := may[key]; ok {
			delete(p.parts, key)
			continue
		}
		if _, ok := p.parts[key]; !ok {
			p.parts[key] = now.Add(parting)
		}
		if wait := p.parts[key].Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		delete(p.in, key)
		delete(p.parts, key)
	}
	return next
}

// admitPeers lets devices in to WireGuard, and of guests only some to anything else.
func (p *serverProcess) admitPeers(in, may map[[32]byte]users.Device) {
	var (
		w         = p.wireGuard
		peers     [][32]byte
		guests    []wglink.Guest
		mayGuests []users.Device
	)
	for key, d := range in {
		if d.Guest() {
			guests = append(guests, wglink.Guest{Key: key, Addresses: w.network.of(d)})
		} else {
			peers = append(peers, key)
		}
	}
	for _, d := range may {
		if d.Guest() {
			mayGuests = append(mayGuests, d)
		}
	}
	w.host.guests.Set(mayGuests)
	if err := errors.Join(w.server.SetPeers(peers), w.server.SetGuests(guests)); err != nil {
		p.log.Error("let devices in by wireguard", "error", err)
	}
}

// enrolled gives the devices that may come by WireGuard, by their keys for it. As long
// as that is not known, none may.
func (p *serverProcess) enrolled(ctx context.Context) (may map[[32]byte]users.Device, known bool) {
	may = make(map[[32]byte]users.Device)
	devices, err := p.store.Devices(ctx, "")
	all, err2 := p.store.Users(ctx)
	if err := errors.Join(err, err2); err != nil {
		if ctx.Err() == nil {
			p.log.Error("list devices", "error", err)
		}
		return may, false
	}
	disabled := make(map[string]bool)
	for _, u := range all {
		disabled[u.Name] = u.Disabled
	}
	for _, d := range devices {
		// A device is told that its user is disabled. A guest cannot be.
		if !d.Revoked && d.WireGuard != [32]byte{} && !(d.Guest() && disabled[d.User]) {
			may[d.WireGuard] = d
		}
	}
	return may, true
}
