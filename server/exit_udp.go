package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/tunnel/socks"
)

// DefaultAssociations is how many associations may be open at once if [Exit] does
// not say.
const DefaultAssociations = 10_000

const (
	// maxDatagram is the longest payload, which is what fits an IPv4 packet.
	maxDatagram = 65_507

	// verdictLife is how long a datagram goes by what was said of the one before.
	// Within that time this host may have got another address.
	verdictLife = 2 * time.Second

	waitAgain = 10 * time.Millisecond // after an error that passes

	maxVerdicts = 128  // that an association remembers
	maxPeers    = 4096 // that it has sent to, if that counts

	// peerLife is how long after a datagram to a peer its own are taken
	// (RFC 4787 section 4.3 recommends five minutes or more).
	peerLife = 5 * time.Minute
)

// datagrams is what all associations of an exit share, with those of exits that came
// before.
type datagrams struct {
	open    atomic.Int64 // associations
	lookups shares       // under way
	spares  spares

	denied, full, unknown atomic.Uint64 // see [Drops]

	mu     sync.Mutex
	host   []netip.Addr // this host's addresses
	hostAt time.Time    // when they were looked up
}

// shared gives what all associations share.
func (e *Exit) shared() *datagrams {
	e.sharing.Do(func() {
		if e.datagrams == nil {
			e.datagrams = new(datagrams)
		}
	})
	return e.datagrams
}

// Follow puts e in the place of another exit: what that has open goes on being counted
// and keeps its ports. It is called before e is used.
func (e *Exit) Follow(before *Exit) { e.datagrams = before.shared() }

// Drops counts the datagrams that went no further.
type Drops struct {
	Denied  uint64 // not allowed, whether they were going or coming
	Full    uint64 // no room for them in a socket or behind a look-up
	Unknown uint64 // nobody knows an address or a way to where they were going
}

// Drops tells what has been dropped since the Exit was first used, or the first one that
// it follows.
func (e *Exit) Drops() Drops {
	d := e.shared()
	return Drops{Denied: d.denied.Load(), Full: d.full.Load(), Unknown: d.unknown.Load()}
}

var errAssociations = &socks.Error{Code: socks.GeneralFailure, Err: errors.New("the exit has too many associations open")}

// Associate opens a UDP port, one and the same for IPv4 and IPv6 where the host
// has both. The address in the reply is unspecified, as it depends on whom a
// datagram goes to, but the port is right, and of the parity that [socks.StackPortParity6]
// asks for if there is such a one. Every datagram is judged by itself,
// going and coming. An association must be closed, even when it is done. Its Close
// must not be called by its Inbox.
func (e *Exit) Associate(ctx context.Context, r socks.Request, in socks.Inbox) (socks.Association, socks.Reply, error) {
	port, err := e.openPort(ctx, r)
	if err != nil {
		err = fmt.Errorf("open UDP port: %w", err)
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	a := &association{
		exit: e, user: r.User, permit: r.Permits, filter: r.Filter, in: in, socket: port.socket, spare: port.spare,
		verdicts: recent[destination, verdict]{limit: maxVerdicts},
		calls:    recent[netip.AddrPort, string]{limit: maxPeers},
		peers:    recent[netip.AddrPort, time.Time]{limit: 2 * maxPeers},
		names:    recent[string, *name]{limit: maxNames},
		done:     make(chan struct{}),
	}
	// ctx is for the opening alone.
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go a.receive()
	if e.AssociationIdle > 0 {
		a.watch()
	}
	return a, socks.Reply{Code: socks.Succeeded, Bound: port.socket.bound(), Stack: port.stack}, nil
}

// association is a UDP port at the exit.
type association struct {
	exit   *Exit
	user   string
	permit func(name string, at netip.AddrPort) error  // this and filter as in [socks.Request]
	filter func(name string, at netip.AddrPort) string // may be nil
	in     socks.Inbox                                 // called by receive alone
	socket *udpSocket
	spare  *udpSocket    // see [exitPort]
	done   chan struct{} // closed when receive has ended

	ctx     context.Context // of look-ups
	cancel  context.CancelFunc
	lookups sync.WaitGroup
	active  atomic.Bool // a datagram went or came since the idle timer's last look

	mu       sync.Mutex
	ended    bool
	idle     *time.Timer // nil without a limit
	verdicts recent[destination, verdict]
	calls    recent[netip.AddrPort, string]    // by what name a peer was last sent to
	peers    recent[netip.AddrPort, time.Time] // when they were last sent to, or a verdict's life before; with port 0 the address
	names    recent[string, *name]             // in lower case
	held     map[*decide.Asking][]socks.Datagram
	asking   int // look-ups under way
	waiting  int // datagrams behind these, and in held
}

// destination is where a datagram goes: a name that was asked for, if it was one, and
// an address, as soon as that is known.
type destination struct {
	name string
	at   netip.AddrPort
}

// Send sends what is allowed.
func (a *association) Send(batch []socks.Datagram) {
	a.active.Store(true)
	packets := packetLists.Get().(*[]packet)
	defer packetLists.Put(packets)
	for len(batch) > 0 {
		n := min(len(batch), maxBatch)
		*packets = a.judgeAll((*packets)[:0], batch[:n])
		full, unknown := a.socket.send(*packets)
		a.exit.shared().full.Add(uint64(full))
		a.exit.shared().unknown.Add(uint64(unknown))
		batch = batch[n:]
		clear(*packets) // the pool keeps no payloads
	}
}

// judgeAll appends the datagrams that may be sent now.
func (a *association) judgeAll(packets []packet, batch []socks.Datagram) []packet {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return packets
	}
	for _, d := range batch {
		if d.Addr.Port == 0 || len(d.Payload) > maxDatagram {
			a.exit.shared().denied.Add(1)
			continue
		}
		to := netip.AddrPortFrom(d.Addr.IP.Unmap(), d.Addr.Port)
		host := ""
		if !d.Addr.IP.IsValid() {
			host = strings.ToLower(d.Addr.Name)
			if !a.allows(destination{host, to}, now) {
				a.exit.shared().denied.Add(1)
				continue // nobody is told of the name
			}
			var known bool
			if to, known = a.resolved(host, d, now); !known {
				continue
			}
		}
		v := a.verdictOf(destination{host, to}, now)
		switch {
		case v.asked != nil:
			a.hold(v.asked, d)
			continue
		case !v.allowed:
			a.exit.shared().denied.Add(1)
			continue
		}
		if host != "" {
			a.calls.put(to, host)
		}
		a.sentTo(destination{host, to}, v, now)
		packets = append(packets, packet{to, d.Payload})
	}
	return packets
}

// from gives a peer as a destination: if it was sent to by a name, that counts.
func (a *association) from(peer netip.AddrPort) destination {
	host, _ := a.calls.get(peer)
	return destination{host, peer}
}

// receive gives the Inbox what comes, until the socket is closed.
func (a *association) receive() {
	defer func() {
		a.exit.shared().open.Add(-1)
		close(a.done)
	}()
	for {
		// Buffers are there only while there is something to read: most
		// associations wait most of the time.
		if err := a.socket.wait(a.lost); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// What an ICMP message or a full queue has left behind passes.
			select {
			case <-a.ctx.Done():
				return
			case <-time.After(waitAgain):
			}
		}
		a.socket.read(a.deliver)
	}
}

// deliver gives the Inbox what is expected of batch, which it changes.
func (a *association) deliver(batch []socks.Datagram) {
	a.active.Store(true)
	now := time.Now()
	n := 0
	a.mu.Lock()
	for _, d := range batch {
		from := netip.AddrPortFrom(d.Addr.IP, d.Addr.Port)
		if len(d.Payload) <= maxDatagram && a.expects(from, now) {
			batch[n] = d
			n++
		}
	}
	ended := a.ended
	a.mu.Unlock()
	a.exit.shared().denied.Add(uint64(len(batch) - n))
	if n > 0 && !ended {
		a.in.Deliver(batch[:n])
	}
}

// lost tells the Inbox of a loss, unless its destination is none that there can
// have been.
func (a *association) lost(l socks.Loss) {
	a.mu.Lock()
	tell := !a.ended && a.allows(a.from(l.To), time.Now())
	a.mu.Unlock()
	if tell {
		a.in.Lost(l)
	}
}

// watch ends the association when for Exit.AssociationIdle nothing has gone or come.
func (a *association) watch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return
	}
	a.idle = time.AfterFunc(a.exit.AssociationIdle, func() {
		if a.active.Swap(false) {
			a.watch()
			return
		}
		a.end()
	})
}

// end makes everything that the association has come to its end.
func (a *association) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return
	}
	a.ended = true
	if a.idle != nil {
		a.idle.Stop()
	}
	a.cancel()
	a.socket.close()
	a.exit.release(a.spare)
}

func (a *association) Done() <-chan struct{} { return a.done }

func (a *association) Close() error {
	a.end()
	a.lookups.Wait()
	<-a.done
	return nil
}

// recentHostAddrs gives the addresses of this host as they were not long ago.
// Asking the system takes as long as a hundred datagrams.
func (e *Exit) recentHostAddrs() ([]netip.Addr, error) {
	d := e.shared()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.host == nil || time.Since(d.hostAt) > verdictLife {
		host, err := hostAddrs()
		if err != nil {
			return nil, err
		}
		d.host, d.hostAt = host, time.Now()
	}
	return d.host, nil
}

// packet is a datagram that may be sent.
type packet struct {
	to      netip.AddrPort
	payload []byte
}

// maxBatch is how many datagrams are sent by one system call.
const maxBatch = 64

var packetLists = sync.Pool{New: func() any {
	list := make([]packet, 0, maxBatch)
	return &list
}}

// listenUDP opens a port on all addresses of this host, any if it is 0. Only the system knows
// which addresses are a network's broadcast addresses, and refuses to send there.
func (s Steer) listenUDP(ctx context.Context, port uint16) (*net.UDPConn, error) {
	l := net.ListenConfig{Control: s.control}
	pc, err := l.ListenPacket(ctx, "udp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	conn := pc.(*net.UDPConn)
	if err := forbidBroadcast(conn); err != nil {
		conn.Close()
		return nil, err
	}
	// Room for a burst: ten milliseconds at 400 Mbit/s. The system may give less,
	// and takes memory only for what waits there.
	_ = conn.SetReadBuffer(socketBuffer)
	_ = conn.SetWriteBuffer(socketBuffer)
	return conn, nil
}

const socketBuffer = 512 << 10
