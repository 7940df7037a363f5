package wglink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/adit-net/adit/crypto/keys"
)

const (
	// openTimeout is how long a peer may take to send its opening.
	openTimeout = 10 * time.Second

	// stopTimeout is how long carriers may take to end by themselves when the
	// server stops.
	stopTimeout = 5 * time.Second

	// maxHandshakes is how many TCP handshakes may be under way inside WireGuard.
	maxHandshakes = 1024

	// sweepPeriod is how often idle peers are looked for.
	sweepPeriod = time.Minute
)

// Arrival is an opening that has come in on a new carrier and is not judged yet.
type Arrival struct {
	Opening    []byte   // OpeningSize bytes
	Server     [32]byte // what [Carrier.Server] gives to the device
	Channel    [32]byte // what [Carrier.Channel] gives to the device
	Device     [32]byte // the WireGuard key that the peer has proved to hold
	Remote     netip.AddrPort
	Protection Protection

	// Place is where the device's latest handshake came from, as of when it is called:
	// devices move. It may be called at any time.
	Place func() netip.AddrPort
}

// Admit judges an arrival. It is called concurrently. Whoever calls has proved to hold the
// WireGuard key in the arrival, which a peer has: an opening of another device
// is not genuine.
//
// If answer is nil the opening is not genuine, and the connection is reset.
// Otherwise the answer, of [AnswerSize] bytes, is sent, and serve runs in the
// connection's goroutine with a [DatagramConn] as [Carrier.Attach] describes it. The
// connection is closed when serve returns, which must be soon after its ctx
// ends. A nil serve closes the connection at once.
//
// A carrier may fail just after it was admitted. Then serve is not called.
type Admit func(ctx context.Context, a Arrival) (answer []byte, serve func(ctx context.Context, conn net.Conn))

// Server takes carriers from peers that it knows by their WireGuard keys.
// Towards everybody else its port is silent. Methods are safe for concurrent
// use, before, during and after Serve.
type Server struct {
	cfg    ServerConfig
	roster *roster
	drops  drops
}

// ServerConfig says who a server is. Key is needed.
type ServerConfig struct {
	Key keys.WireGuardKey

	// MTU is the largest IP packet inside WireGuard, in bytes. Zero: 1420. Where the path to
	// a peer takes no such packets, smaller ones are sent there.
	MTU int

	// PathMTU, if it is set, says how large IP packets may be on the path to a place,
	// headers and all, for reasons that the system does not know. 0: there are none.
	PathMTU func(ctx context.Context, to netip.AddrPort) int

	// Moved, if it is set, is called after peers have come from elsewhere than before. It
	// must return soon.
	Moved func()

	// Guard, if it is set, has the server talk to those places alone that are open. It is
	// asked about a place when somebody who knows the server's key comes from there, until
	// nobody has for minutes. Whoever comes from elsewhere is neither answered nor heard.
	Guard Guard

	// Host carries out what guests do. nil: there are no guests.
	Host Host

	// Inner has the server's own inner addresses towards guests, one of IPv4 and
	// one of IPv6, each with the net that it is in, such as 10.66.0.1/16. Nobody
	// else in these nets can be reached by guests.
	Inner []netip.Prefix

	Log *slog.Logger // nil: nothing is logged
}

// NewServer makes a server that knows no peer.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, roster: newRoster(cfg.Key.Public())}
}

// AddPeer lets a device in by its WireGuard key. A peer that does not come costs
// below 1 KiB. The error is [ErrAddress] if it cannot be told from another, and
// [ErrKey] if it is a guest.
func (s *Server) AddPeer(key [32]byte) error { return s.roster.add(key) }

// RemovePeer keeps a device or a guest out, and ends its carriers or flows at once.
func (s *Server) RemovePeer(key [32]byte) { s.roster.remove(key) }

// SetPeers adds and removes devices, so that those are left that are named here.
// If some cannot be added, the others are.
func (s *Server) SetPeers(peers [][32]byte) error {
	wanted := make(map[[32]byte]bool, len(peers))
	for _, key := range peers {
		wanted[key] = true
	}
	s.roster.retain(false, func(p *peer) bool { return wanted[p.key] })
	var errs []error
	for key := range wanted {
		errs = append(errs, s.roster.add(key))
	}
	return errors.Join(errs...)
}

// Serve takes carriers on a UDP socket, which it closes, until ctx ends. Then it
// closes what has not been admitted, gives everybody else 5 s to end, and
// returns nil when all has ended. It runs once at a time.
func (s *Server) Serve(ctx context.Context, pc net.PacketConn, admit Admit) error {
	x, err := s.newExchange(ctx, pc, admit)
	if err != nil {
		_ = pc.Close() // the first error says more
		return fmt.Errorf("serve wireguard: %w", err)
	}
	var helpers sync.WaitGroup
	helpers.Go(func() { x.gate.run(ctx) })
	helpers.Go(func() { x.sweep(ctx) })
	helpers.Go(func() { x.survey.run(ctx) })
	if x.hall != nil {
		helpers.Go(func() { x.hall.run(ctx) })
	}
	<-ctx.Done()
	helpers.Wait()
	x.end()
	return nil
}

// exchange is one run of [Server.Serve].
type exchange struct {
	*engine
	ctx    context.Context // Serve's
	key    [32]byte
	admit  Admit
	roster *roster
	gate   *gate
	hall   *hall // nil without guests
	log    *slog.Logger

	mu       sync.Mutex
	over     bool              // no connection may begin any more
	all      map[*tcpConn]bool // whether it was admitted
	arriving sync.WaitGroup    // connections' goroutines
}

func (s *Server) newExchange(ctx context.Context, pc net.PacketConn, admit Admit) (*exchange, error) {
	udp, err := udpSocket(pc)
	if err != nil {
		return nil, err
	}
	mtu, err := checkMTU(s.cfg.MTU)
	if err != nil {
		return nil, err
	}
	if s.cfg.Key.IsZero() {
		return nil, errors.New("the server has no key")
	}
	x := &exchange{ctx: ctx, key: s.cfg.Key.Public(), admit: admit, roster: s.roster, log: s.cfg.Log, all: map[*tcpConn]bool{}}
	socket := newSocket(udp, serverInside)
	socket.path = knownPath(nil, s.cfg.PathMTU)
	if s.cfg.Guard != nil {
		socket.fence = newFence(s.cfg.Guard)
	}
	if x.gate, err = newGate(s.cfg.Key, socket, s.roster, x.log); err != nil {
		return nil, err
	}
	if x.engine, err = newEngine(socket, s.cfg.Key, serverAddress(x.key), toServer, mtu, s.drops.logger(x.log)); err != nil {
		return nil, err
	}
	if s.cfg.Host != nil {
		if x.hall, err = newHall(ctx, x.engine, &s.cfg, &s.drops); err != nil {
			x.engine.close()
			return nil, err
		}
	}
	forwarder := tcp.NewForwarder(x.stack, firstBuffer, maxHandshakes, x.arrive)
	x.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	x.survey.moved = s.cfg.Moved
	s.roster.open(x.engine, x.hall)
	return x, nil
}

func (x *exchange) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			x.roster.sweep(now)
			x.socket.fence.sweep()
		}
	}
}

// end waits until everything has ended.
func (x *exchange) end() {
	x.abort(func(admitted bool) bool { return !admitted })
	x.abortHandshakes()
	cut := time.AfterFunc(stopTimeout, func() {
		x.abort(func(bool) bool { return true })
		x.abortHandshakes() // those that began just then
	})
	if x.hall != nil {
		x.hall.end()
	}
	x.arriving.Wait()
	cut.Stop()
	x.engine.drain()
	x.roster.close()
	x.engine.close()
	x.socket.fence.close()
	if x.hall != nil {
		x.hall.stack.Destroy()
	}
}

// abort ends connections, and lets none begin any more.
func (x *exchange) abort(chosen func(admitted bool) bool) {
	x.mu.Lock()
	x.over = true
	var out []*tcpConn
	for c, admitted := range x.all {
		if chosen(admitted) {
			out = append(out, c)
		}
	}
	x.mu.Unlock()
	for _, c := range out {
		c.abort()
	}
}

// abortHandshakes ends the waiting for peers that want a TCP connection and say
// no more.
func (x *exchange) abortHandshakes() {
	for _, e := range x.stack.RegisteredEndpoints() {
		if e, ok := e.(*tcp.Endpoint); ok && e.EndpointState() == tcp.StateSynRecv {
			e.Abort()
		}
	}
}

// begin tells whether a connection may begin. It must end with arriving.Done.
func (x *exchange) begin() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return false
	}
	x.arriving.Add(1)
	return true
}

// note notes down a connection, and what became of it. It fails when the server
// stops.
func (x *exchange) note(c *tcpConn, admitted bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return false
	}
	x.all[c] = admitted
	return true
}

func (x *exchange) forget(c *tcpConn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.all, c)
}

// arrive takes a TCP connection that a peer wants. The stack runs it in a
// goroutine of its own.
func (x *exchange) arrive(r *tcp.ForwarderRequest) {
	if !x.begin() {
		r.Complete(false)
		return
	}
	defer x.arriving.Done()
	id := r.ID()
	if id.LocalPort != carrierPort {
		r.Complete(true)
		return
	}
	p, ok := x.roster.enter(netip.AddrFrom16(id.RemoteAddress.As16()))
	if !ok {
		r.Complete(true)
		return
	}
	leave := sync.OnceFunc(func() { x.roster.leave(p) })
	defer leave()
	var queue waiter.Queue
	endpoint, err := r.CreateEndpoint(&queue)
	r.Complete(err != nil)
	if err != nil {
		return
	}
	tune(endpoint, userTimeout, keepAliveIdle, keepAliveInterval)
	c := newConn(endpoint, &queue, fromStack(id.LocalAddress, id.LocalPort), fromStack(id.RemoteAddress, id.RemotePort))
	if !x.note(c, false) || !x.roster.keep(p, c) {
		x.forget(c)
		c.abort()
		return
	}
	defer x.forget(c)
	defer x.roster.letGo(p, c)
	x.attend(c, p, leave)
}

// attend opens a carrier and has it served. opened is called when it has been
// admitted.
func (x *exchange) attend(c *tcpConn, p *peer, opened func()) {
	defer c.abort() // unless it was closed
	_ = c.SetDeadline(time.Now().Add(openTimeout))
	conn := newDatagramConn(c, x.cable, p.gauge)
	nonce := enterByChance(conn)
	defer conn.leave()
	opening := make([]byte, OpeningSize)
	if _, err := c.Write(nonce[:]); err != nil {
		x.log.Debug("carrier failed while it opened", "remote", p.place(), "error", err)
		return
	}
	if _, err := io.ReadFull(c, opening); err != nil {
		x.log.Debug("carrier failed while it opened", "remote", p.place(), "error", err)
		return
	}
	answer, serve := x.admit(x.ctx, Arrival{
		Opening:    opening,
		Server:     serverID(x.key),
		Channel:    channelID(x.key, p.key, nonce[:]),
		Device:     p.key,
		Remote:     p.place(),
		Protection: protection(),
		Place:      p.place,
	})
	if answer == nil || !x.note(c, true) {
		return
	}
	opened()
	if err := x.roster.lend(p, conn.tag); err != nil {
		x.log.Debug("carrier failed while it opened", "remote", p.place(), "error", err)
		return
	}
	defer x.roster.takeBack(p, conn.tag)
	if err := x.answer(c, answer); err != nil {
		x.log.Debug("carrier failed while it opened", "remote", p.place(), "error", err)
		return
	}
	if serve != nil {
		serve(x.ctx, conn)
	}
	_ = c.Close() // it has no error
}

// enterByChance draws a nonce whose tag no other connection has.
func enterByChance(c *datagramConn) (nonce [nonceSize]byte) {
	for entered := false; !entered; entered = c.enter(tagOf(nonce)) {
		_, _ = rand.Read(nonce[:]) // it has no error
	}
	return nonce
}

func (x *exchange) answer(c *tcpConn, answer []byte) error {
	if len(answer) != AnswerSize {
		return fmt.Errorf("the answer has %d bytes, want %d", len(answer), AnswerSize)
	}
	if _, err := c.Write(answer); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}
