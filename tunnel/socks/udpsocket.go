package socks

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	// maxUDP is the longest packet that IP leaves room for.
	maxUDP = 65507

	// packetSpace is room for any packet there is, whatever the IP version.
	packetSpace = 1 << 16

	packetsIn  = 16 // in one read
	packetsOut = 64 // in one write
	spaceOut   = 2 * packetSpace

	controlSpace = 24 // for what is said to the system with a packet

	// sealSpace is what the protection of a packet takes at most.
	sealSpace = 256

	// udpBuffer is what a socket's queues get, each way, if the system lets it have so
	// much.
	udpBuffer = 512 << 10
)

// udpDialect is how an app puts its datagrams into packets.
type udpDialect interface {
	// unpack appends the datagram that a packet brings or completes to batch, if there
	// is one. The packet comes from the app's host, but only from the app itself if
	// [udpSocket.admit] says so, who is asked after all that can be told from the packet.
	unpack(batch []Datagram, now time.Time, from netip.AddrPort, packet []byte) []Datagram

	// forget drops what has waited for too long, and tells when it wants to be called
	// next: the zero time for never. It is called after each batch, too.
	forget(now time.Time) time.Time

	// drop gives up all that waits. It is the last call.
	drop()
}

// udpSocket is the port beside an app's connection where its datagrams come and go.
// It belongs to one sender: everybody else's packets are dropped.
type udpSocket struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	local netip.AddrPort
	told  netip.AddrPort // where the app is told to send to
	desk  *udpDesk
	place *place                            // of the association
	host  netip.Addr                        // the app's
	vet   func(source netip.AddrPort) error // judges who is first; nil for anybody on host
	app   atomic.Pointer[udpApp]

	channel *GSSChannel // what packets are protected by; nil for nothing
	batchConn
}

// udpApp is where an app's packets come from and go to.
type udpApp struct {
	addr *net.UDPAddr
	as   netip.AddrPort // unmapped
}

// newUDPSocket opens any port of an address.
func newUDPSocket(local netip.Addr) (*udpSocket, error) {
	return openUDPSocket(netip.AddrPortFrom(local, 0))
}

func openUDPSocket(local netip.AddrPort) (*udpSocket, error) {
	network := "udp6"
	if local.Addr().Is4() {
		network = "udp4"
	}
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(local))
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	// What the system gives instead is good enough for most.
	_ = conn.SetReadBuffer(udpBuffer)
	_ = conn.SetWriteBuffer(udpBuffer)
	bound := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return &udpSocket{
		conn:      conn,
		raw:       raw,
		local:     netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port()),
		batchConn: newBatchConn(conn, raw, local.Addr()),
	}, nil
}

// close ends receive, and counts the association out.
func (s *udpSocket) close() {
	s.conn.Close()
	s.place.leave()
}

// settle makes app the only one who may send, and gets what comes back.
func (s *udpSocket) settle(app netip.AddrPort) {
	s.app.Store(&udpApp{addr: net.UDPAddrFromAddrPort(app), as: unmapped(app)})
}

// admit tells whether a packet comes from the app. The first who may is the app.
func (s *udpSocket) admit(from netip.AddrPort) bool {
	switch {
	case s.foreign(from):
		return false
	case s.app.Load() != nil:
		return true
	case s.vet != nil && s.vet(unmapped(from)) != nil:
		return false
	}
	s.settle(from)
	return true
}

// foreign tells early that a packet cannot be the app's.
func (s *udpSocket) foreign(from netip.AddrPort) bool {
	if app := s.app.Load(); app != nil {
		return unmapped(from) != app.as
	}
	return unmapped(from).Addr() != s.host
}

// receive sends on what the app sends, until the socket is closed. While nothing
// comes it holds no buffer.
func (s *udpSocket) receive(dialect udpDialect, to Association) error {
	defer dialect.drop()
	var next time.Time
	for {
		err := s.wait(s.raw)
		if err == nil {
			err = s.receiveBatch(dialect, to)
		}
		// The deadline may pass between the two. What has come then waits a little more.
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if until := dialect.forget(time.Now()); until != next {
			next = until
			if err := s.conn.SetReadDeadline(next); err != nil {
				return err
			}
		}
	}
}

// receiveBatch sends on what waits at the socket, or a good part of it.
func (s *udpSocket) receiveBatch(dialect udpDialect, to Association) error {
	turns := s.desk.turns()
	turns <- struct{}{}
	defer func() { <-turns }()
	in := incomings.Get().(*incoming)
	defer incomings.Put(in)
	n, err := s.read(s.conn, in)
	if err != nil {
		return err
	}
	now := time.Now()
	for i := range n {
		from, packet := in.from(i), in.packet(i)
		if s.foreign(from) {
			continue
		}
		if s.channel != nil {
			if packet, err = s.channel.OpenDatagram(packet); err != nil {
				continue
			}
		}
		in.batch = dialect.unpack(in.batch, now, from, packet)
	}
	if len(in.batch) > 0 {
		to.Send(in.batch)
	}
	clear(in.batch)
	in.batch = in.batch[:0]
	return nil
}

// incoming is room for the packets of one read, and what becomes of them.
type incoming struct {
	messages []ipv4.Message
	batch    []Datagram
}

var incomings = sync.Pool{New: func() any {
	in := &incoming{messages: make([]ipv4.Message, packetsIn), batch: make([]Datagram, 0, packetsIn)}
	space := make([]byte, packetsIn*packetSpace)
	for i := range in.messages {
		in.messages[i].Buffers = [][]byte{space[i*packetSpace : (i+1)*packetSpace : (i+1)*packetSpace]}
	}
	return in
}}

// from is where a packet comes from. It is the zero AddrPort if nobody knows.
func (in *incoming) from(i int) netip.AddrPort {
	a, ok := in.messages[i].Addr.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	from := a.AddrPort()
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

func (in *incoming) packet(i int) []byte {
	m := in.messages[i]
	return m.Buffers[0][:m.N:m.N]
}

// outgoing collects packets for the app, and sends many at once. It never waits:
// what the system does not take at once is lost.
type outgoing struct {
	socket   *udpSocket
	messages []ipv4.Message
	count    int    // of messages that are in use
	space    []byte // the packets, one behind the other
	sealed   []byte // a packet that is protected, on its way to space
}

var outgoings = sync.Pool{New: func() any {
	out := &outgoing{messages: make([]ipv4.Message, packetsOut), space: make([]byte, 0, spaceOut)}
	for i := range out.messages {
		out.messages[i].Buffers = make([][]byte, 1)
		out.messages[i].OOB = make([]byte, 0, controlSpace)
	}
	return out
}}

// compose begins to collect packets. It gives nil as long as there is nobody to send
// them to.
func (s *udpSocket) compose() *outgoing {
	if s.app.Load() == nil {
		return nil
	}
	out := outgoings.Get().(*outgoing)
	out.socket = s
	return out
}

// room gives an empty slice to which a packet of up to size bytes is appended, and
// nil if no packet can be so long.
func (out *outgoing) room(size int) []byte {
	if size > packetSpace {
		return nil
	}
	if out.socket.channel != nil {
		size += sealSpace
	}
	if out.count == len(out.messages) || size > cap(out.space)-len(out.space) {
		out.flush()
	}
	return out.space[len(out.space):len(out.space)]
}

// add takes the packet that was made in the room.
func (out *outgoing) add(packet []byte) {
	if channel := out.socket.channel; channel != nil {
		sealed, err := channel.AppendDatagram(out.sealed[:0], packet)
		if err != nil || len(sealed) > len(packet)+sealSpace {
			return // it is too long for a message
		}
		out.sealed = sealed
		packet = append(packet[:0], sealed...)
	}
	out.space = out.space[:len(out.space)+len(packet)]
	m := &out.messages[out.count]
	m.Buffers[0], m.OOB = packet, m.OOB[:0]
	out.count++
}

// flush sends the packets there are.
func (out *outgoing) flush() {
	if app := out.socket.app.Load(); app != nil && out.count > 0 {
		for i := range out.count {
			out.messages[i].Addr = app.addr
		}
		out.socket.write(out.socket.conn, out.messages[:out.count])
	}
	out.count, out.space = 0, out.space[:0]
}

// send sends the packets there are, and is the end of out.
func (out *outgoing) send() {
	out.flush()
	out.socket = nil
	outgoings.Put(out)
}
