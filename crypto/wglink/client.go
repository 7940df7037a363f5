package wglink

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"

	"github.com/adit-net/adit/crypto/keys"
)

const (
	// defaultTimeout bounds Dial and Attach where nothing else is set. It is
	// short, as there is TLS where WireGuard does not get through.
	defaultTimeout = 5 * time.Second

	// retry is how long a handshake may go unanswered before the next. WireGuard
	// itself waits for 5 s.
	retry = 700 * time.Millisecond

	// maxPlaces bounds at how many addresses the server is looked for.
	maxPlaces = 16
)

// ErrNoAnswer says that no WireGuard handshake was answered. A server is silent
// towards whom it does not know, so nothing tells the reasons apart: UDP is
// blocked on the way, the server does not know this device's key, or this
// machine's clock is behind what it was at an earlier handshake.
var ErrNoAnswer = errors.New("no answer to a WireGuard handshake: UDP may be blocked, the device's key unknown, or this machine's clock set back")

// ErrClock says that no handshake was answered, and that this machine's clock
// is behind what it was at an earlier handshake. Servers take that for a replay.
var ErrClock = errors.New("no answer to a WireGuard handshake: this machine's clock has been set back")

// ErrNotTaken says that the server has not taken an opening. It tells a device
// that it does not know no more than that.
var ErrNotTaken = errors.New("the server does not take this device's opening")

// Resolver finds the addresses of a host. [net.Resolver] is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Dialer opens carriers to one server. Its carriers share one UDP socket, so it
// is worth keeping: two with the same key would take the server's answers from
// each other. A Dialer is safe for concurrent use while its fields stay as they
// are. It holds a socket only while there are carriers.
type Dialer struct {
	Endpoint  string   // host:port, over UDP
	ServerKey [32]byte // the server's public key
	Key       keys.WireGuardKey

	// MTU is the largest IP packet inside WireGuard, in bytes: that of the path
	// less 80. Zero: 1420. At least 1280. Where the path takes no such packets, smaller
	// ones are sent.
	MTU int

	// PathMTU is as [ServerConfig].PathMTU.
	PathMTU func(ctx context.Context, to netip.AddrPort) int

	// Control, if it is set, is called before a UDP socket is bound, as
	// [net.Dialer].ControlContext. Its error keeps it from being used.
	Control func(ctx context.Context, network, address string, c syscall.RawConn) error

	// Guard, if it is set, ties a socket to what is to protect it on the way to a place,
	// before anything is sent there, and before each carrier is opened. Its error keeps the
	// place from being used.
	Guard func(ctx context.Context, c syscall.RawConn, place netip.AddrPort) error

	// Resolver finds the addresses of Endpoint's host; nil: [net.DefaultResolver].
	Resolver Resolver

	// HandshakeTimeout bounds Dial and Attach, each; zero: 5 s.
	HandshakeTimeout time.Duration

	// Answered is when the server was last heard of in an earlier run, by this
	// machine's clock then; zero: that is not known. Note is told when it is, so that it can
	// be kept; nil: nobody wants to know.
	Answered time.Time
	Note     func(time.Time)

	Log *slog.Logger // nil: nothing is logged

	mu       sync.Mutex // guards what follows
	link     *link      // nil while there are no carriers
	answered time.Time  // as Answered, in this run
}

// Dial does the WireGuard handshake and connects to the server's inner address.
// When it returns the server has proved who it is.
//
// It tries all addresses of the host at once, at most 16, and goes on with the one that
// answers first. The error is [ErrNoAnswer] or [ErrClock] if none does.
func (d *Dialer) Dial(ctx context.Context) (*Carrier, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", d.Endpoint, err)
	}
	return c, nil
}

// Place is where the server is, as far as its latest answer tells; invalid while there are no
// carriers.
func (d *Dialer) Place() netip.AddrPort {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.link == nil {
		return netip.AddrPort{}
	}
	return d.link.place()
}

func (d *Dialer) dial(ctx context.Context) (*Carrier, error) {
	mtu, err := d.check()
	if err != nil {
		return nil, err
	}
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, d.timeout())
	defer cancel()
	places, err := d.resolve(ctx)
	if err != nil {
		return nil, err
	}
	l, before, alone, err := d.acquire(ctx, places, mtu)
	if err != nil {
		return nil, err
	}
	c, err := l.dial(ctx, before, alone)
	if err != nil {
		d.release(l)
		if asked.Err() != nil {
			return nil, context.Cause(asked)
		}
		return nil, err
	}
	return c, nil
}

func (d *Dialer) check() (mtu int, err error) {
	switch {
	case d.ServerKey == [32]byte{}:
		return 0, errors.New("no server key says how to know the server")
	case d.Key.IsZero():
		return 0, errors.New("no key says who we are")
	}
	return checkMTU(d.MTU)
}

func (d *Dialer) timeout() time.Duration {
	return cmp.Or(max(d.HandshakeTimeout, 0), defaultTimeout)
}

func (d *Dialer) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(d.Endpoint)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else {
		resolver := d.Resolver
		if resolver == nil {
			resolver = net.DefaultResolver
		}
		if addrs, err = resolver.LookupNetIP(ctx, "ip", host); err != nil {
			return nil, err
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	var places []netip.AddrPort
	for _, a := range addrs[:min(len(addrs), maxPlaces)] {
		places = append(places, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	return places, nil
}

// acquire gives the link, or makes it, and begins a handshake with the server at
// any of the places. before is what lastAnswer has said until then, and alone
// says that there are no carriers on the link.
func (d *Dialer) acquire(ctx context.Context, places []netip.AddrPort, mtu int) (l *link, before string, alone bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l = d.link; l != nil {
		places, err = d.guarded(ctx, l.socket.udp, places)
	} else if l, places, err = d.newLink(ctx, places, mtu); err == nil {
		d.link = l
	}
	if err != nil {
		return nil, "", false, err
	}
	l.users++
	if before, err = l.seek(places); err != nil {
		d.releaseLocked(l)
		return nil, "", false, err
	}
	return l, before, l.users == 1, nil
}

// guarded gives those of the places that a socket may be used for.
func (d *Dialer) guarded(ctx context.Context, udp *net.UDPConn, places []netip.AddrPort) (open []netip.AddrPort, err error) {
	if d.Guard == nil {
		return places, nil
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, at := range places {
		err := errVersion
		if networkOf(at) == networkOf(udp.LocalAddr().(*net.UDPAddr).AddrPort()) {
			err = d.Guard(ctx, raw, at)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", at, err))
			continue
		}
		// What a socket is tied to may be on the way to this one alone.
		return []netip.AddrPort{at}, nil
	}
	return nil, errors.Join(errs...)
}

// errVersion says that a socket cannot reach a place.
var errVersion = errors.New("the socket is for the other version of IP")

// networkOf names the version of IP that a place has, for sockets that have no other.
func networkOf(place netip.AddrPort) string {
	if place.Addr().Is4() {
		return "udp4"
	}
	return "udp6"
}

// open opens a socket, and gives those of the places that it may be used for.
func (d *Dialer) open(ctx context.Context, places []netip.AddrPort) (udp *net.UDPConn, open []netip.AddrPort, err error) {
	if d.Guard == nil {
		udp, err = d.listen(ctx, "udp")
		return udp, places, err
	}
	// A socket of both versions of IP can be tied to nothing.
	var errs []error
	for i, at := range places {
		if udp, err = d.listen(ctx, networkOf(at)); err != nil {
			errs = append(errs, err)
			continue
		}
		if open, err = d.guarded(ctx, udp, places[i:i+1]); err == nil {
			return udp, open, nil
		}
		_ = udp.Close() // nothing has been sent
		errs = append(errs, err)
	}
	return nil, nil, errors.Join(errs...)
}

func (d *Dialer) listen(ctx context.Context, network string) (*net.UDPConn, error) {
	var config net.ListenConfig
	if d.Control != nil {
		config.Control = func(network, address string, c syscall.RawConn) error { return d.Control(ctx, network, address, c) }
	}
	pc, err := config.ListenPacket(ctx, network, ":0")
	if err != nil {
		return nil, err
	}
	return udpSocket(pc)
}

// newLink makes a link, and gives those of the places that it may be used for.
func (d *Dialer) newLink(ctx context.Context, places []netip.AddrPort, mtu int) (l *link, open []netip.AddrPort, err error) {
	udp, open, err := d.open(ctx, places)
	if err != nil {
		return nil, nil, err
	}
	log := d.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	local := deviceAddress(d.ServerKey, d.Key.Public())
	socket := newSocket(udp, clientInside)
	socket.path = knownPath(d.Control, d.PathMTU)
	e, err := newEngine(socket, d.Key, local, toDevice, mtu, deviceLogger(log))
	if err != nil {
		return nil, nil, err
	}
	l = &link{engine: e, dialer: d, server: d.ServerKey, local: local}
	l.gauge = e.cable.sizes.newGauge(local, serverAddress(d.ServerKey), l.place)
	e.cable.sizes.add(l.gauge)
	surveying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var survey sync.WaitGroup
	survey.Go(func() { e.survey.run(surveying) })
	l.stop = func() {
		cancel()
		survey.Wait()
	}
	return l, open, nil
}

func (d *Dialer) release(l *link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.releaseLocked(l)
}

// releaseLocked closes a link that nobody uses any more. The caller holds mu.
func (d *Dialer) releaseLocked(l *link) {
	if l.users--; l.users == 0 {
		l.stop()
		l.drain()
		l.close()
		d.link = nil
	}
}

// silence tells why there was no answer, as far as it can be known.
func (d *Dialer) silence() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.Answered
	if d.answered.After(last) {
		last = d.answered
	}
	if back := last.Sub(clock()); back > clockTick {
		return fmt.Errorf("%w by %v", ErrClock, back.Round(time.Second))
	}
	return ErrNoAnswer
}

// heard notes down that the server has answered.
func (d *Dialer) heard() {
	now := clock()
	d.mu.Lock()
	d.answered = now
	d.mu.Unlock()
	if d.Note != nil {
		d.Note(now)
	}
}

// left notes down until when it may have answered. If the clock has been set
// back since, that does not tell.
func (d *Dialer) left() {
	d.mu.Lock()
	before := d.answered
	d.mu.Unlock()
	if clock().After(before) {
		d.heard()
	}
}

// clockTick is how exactly WireGuard tells the time: it hides the last 24 bits of
// the nanoseconds.
const clockTick = 1 << 24 * time.Nanosecond

// clock is the time that handshakes carry: that of this machine's clock, as
// exactly as WireGuard tells it.
func clock() time.Time {
	const epoch = 0x400000000000000a // of TAI64, at the Unix epoch
	stamp := tai64n.Now()
	return time.Unix(int64(binary.BigEndian.Uint64(stamp[:])-epoch), int64(binary.BigEndian.Uint32(stamp[8:])))
}
