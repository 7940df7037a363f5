package wglink

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
)

// First bytes of WireGuard's messages, and their sizes where they are fixed.
const (
	messageInitiation = 1
	messageData       = 4

	initiationSize = 148
	keepaliveSize  = 32 // of a message without a packet in it
)

// socketBuffer is what the kernel may hold for a socket, each way, if it allows
// that much.
const socketBuffer = 4 << 20

// maxDatagram is the largest UDP payload.
const maxDatagram = 1<<16 - 1

// remote is a place that WireGuard sends to and receives from. It does not change.
type remote struct{ netip.AddrPort }

func (r *remote) ClearSrc()           {}
func (r *remote) SrcToString() string { return "" }
func (r *remote) SrcIP() netip.Addr   { return netip.Addr{} }
func (r *remote) DstToString() string { return r.String() }
func (r *remote) DstIP() netip.Addr   { return r.Addr() }

func (r *remote) DstToBytes() []byte {
	b, _ := r.MarshalBinary() // it has no error
	return b
}

// remotes are places where a server may be. What is sent to them goes to each,
// until one has answered: WireGuard goes on with that one. They are few, and a
// handshake is small.
type remotes struct {
	remote // what they are called
	all    []netip.AddrPort
}

// errTooMany tells of a batch larger than what was agreed on.
var errTooMany = errors.New("more packets than a batch has")

// socket is a UDP socket as a WireGuard device wants it. It reads and writes in
// batches where the system can.
type socket struct {
	udp *net.UDPConn
	io  *batchIO

	// initiations gets handshake initiations, and says what the device is to
	// have of them at once; the rest comes by late. nil: the device has all.
	initiations func(message []byte, from netip.AddrPort) (pass bool)
	late        chan lateMessage

	// path says what the system knows of the size of packets on the way to a place; 0:
	// nothing. nil: nobody is to be asked. tooLarge is told where to there was one that the
	// system refused.
	path     func(ctx context.Context, to netip.AddrPort) int
	tooLarge func(to netip.Addr)

	// fence says where packets may come from and go to; nil: anywhere.
	fence *fence

	// aim is what the endpoint named "server" stands for.
	aim atomic.Pointer[remotes]

	sent *counter // packets; handshakes do not count

	received uint64  // packets; receive's own
	in       passage // of these

	mu     sync.Mutex
	open   bool
	closed chan struct{}
}

// lateMessage is a message that the device gets after all.
type lateMessage struct {
	message [initiationSize]byte
	from    netip.AddrPort
}

// newSocket makes a bind of a UDP socket, which it closes in the end, for a device that may
// have so many packets inside each way.
func newSocket(udp *net.UDPConn, inside int64) *socket {
	// The kernel may allow less, which costs speed and nothing else.
	_ = udp.SetReadBuffer(socketBuffer)
	_ = udp.SetWriteBuffer(socketBuffer)
	keepWhole(udp)
	return &socket{udp: udp, sent: newCounter(), in: passage{most: inside, out: newCounter()}, io: newBatchIO(udp), closed: make(chan struct{}), late: make(chan lateMessage)}
}

// Open is [conn.Bind]'s. The port is what the socket has.
func (s *socket) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	s.open = true
	functions := []conn.ReceiveFunc{s.receive}
	if s.initiations != nil {
		functions = append(functions, s.receiveLate)
	}
	return functions, s.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

// Close closes the socket for good. Before Open it does nothing, as a device
// calls it then too.
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return nil
	}
	return s.shut()
}

// discard closes a socket that was never opened.
func (s *socket) discard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.shut()
}

// shut closes once. The caller holds mu.
func (s *socket) shut() error {
	select {
	case <-s.closed:
		return nil
	default:
		close(s.closed)
		return s.udp.Close()
	}
}

func (s *socket) receive(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
	// What there is no room for waits in the kernel, or is lost there.
	s.in.hold(s.received)
	n, err := s.io.read(packets, sizes, from)
	if err != nil {
		select {
		case <-s.closed:
			return 0, net.ErrClosed
		default:
			return 0, err
		}
	}
	if s.fence != nil {
		s.keepOut(packets[:n], sizes, from)
	}
	for i, p := range packets[:n] {
		if isPacket(p[:sizes[i]]) {
			s.received++
		}
	}
	if s.initiations == nil {
		return n, nil
	}
	for i, p := range packets[:n] {
		if sizes[i] == initiationSize && p[0] == messageInitiation && !s.initiations(p[:initiationSize], from[i].(*remote).AddrPort) {
			sizes[i] = 0 // the device passes over it
		}
	}
	return n, nil
}

// keepOut has the device pass over what comes from where nothing may come from. Of
// initiations the gate is the judge.
func (s *socket) keepOut(packets [][]byte, sizes []int, from []conn.Endpoint) {
	for i, p := range packets {
		if sizes[i] == 0 || p[0] == messageInitiation {
			continue
		}
		if _, open := s.fence.passes(from[i].(*remote).AddrPort); !open {
			sizes[i] = 0
		}
	}
}

func (s *socket) receiveLate(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
	select {
	case m := <-s.late:
		sizes[0] = copy(packets[0], m.message[:])
		from[0] = &remote{m.from}
		return 1, nil
	case <-s.closed:
		return 0, net.ErrClosed
	}
}

// deliver gives the device a message by receiveLate.
func (s *socket) deliver(m lateMessage) {
	select {
	case s.late <- m:
	case <-s.closed:
	}
}

func (s *socket) Send(packets [][]byte, to conn.Endpoint) error {
	if len(packets) > batch {
		return errTooMany
	}
	defer s.count(packets)
	if one, ok := to.(*remote); ok {
		return s.write(packets, one.AddrPort)
	}
	var sent bool
	var errs []error
	for _, at := range to.(*remotes).all {
		// A host may have no route to some of them.
		if err := s.write(packets, at); err != nil {
			errs = append(errs, err)
			continue
		}
		sent = true
	}
	if sent {
		return nil
	}
	return errors.Join(errs...)
}

// errFenced says that nothing may be sent to a place.
var errFenced = errors.New("the way there is not protected")

func (s *socket) write(packets [][]byte, to netip.AddrPort) error {
	var device uint32
	if s.fence != nil {
		var open bool
		if device, open = s.fence.passes(to); !open {
			return errFenced
		}
	}
	err := s.io.write(packets, to, device)
	if isTooLarge(err) && s.tooLarge != nil {
		s.tooLarge(to.Addr())
	}
	return err
}

func (s *socket) count(messages [][]byte) {
	n := 0
	for _, m := range messages {
		if isPacket(m) {
			n++
		}
	}
	s.sent.add(n)
}

// isPacket tells whether there is an IP packet in a message.
func isPacket(m []byte) bool { return len(m) > keepaliveSize && m[0] == messageData }

// SetMark is for routers.
func (s *socket) SetMark(uint32) error { return nil }

func (s *socket) BatchSize() int { return batch }

// serverEndpoint stands for all places where the server may be.
const serverEndpoint = "server"

// ParseEndpoint understands serverEndpoint and nothing else: nobody else is sent
// anything before they have been heard of.
func (s *socket) ParseEndpoint(name string) (conn.Endpoint, error) {
	if aim := s.aim.Load(); aim != nil && name == serverEndpoint {
		return aim, nil
	}
	return nil, conn.ErrWrongEndpointType
}
