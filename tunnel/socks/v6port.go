package socks

import (
	"net"
	"net/netip"
	"sync"
)

// ports6 are the UDP ports to which apps of SOCKS 6 send. They have the addresses and
// numbers of the TCP ports at which the apps have come in, and are open while there
// are associations. The zero ports6 is ready.
type ports6 struct {
	mu   sync.Mutex
	open map[netip.AddrPort]*port6
}

// port6 is a UDP port for many associations, which its packets name.
type port6 struct {
	socket *udpSocket
	at     netip.AddrPort
	reader sync.WaitGroup

	mu   sync.Mutex
	byID map[uint64]*udp6
}

// join gives an association a port beside the app's TCP connection, which has an end
// at local, if there can be one.
func (t *ports6) join(local net.Addr, u *udp6, desk *udpDesk) {
	tcp, ok := local.(*net.TCPAddr)
	if !ok || !u.host.IsValid() {
		return
	}
	at := tcp.AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.open[at]
	if p == nil {
		socket, err := openUDPSocket(at)
		if err != nil {
			return // somebody else has it
		}
		socket.desk = desk
		p = &port6{socket: socket, at: at, byID: make(map[uint64]*udp6)}
		if t.open == nil {
			t.open = make(map[netip.AddrPort]*port6)
		}
		t.open[at] = p
		p.reader.Go(p.read)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u.port = p
	p.byID[u.id] = u
}

// leave takes an association off its port. The last one closes it.
func (t *ports6) leave(u *udp6) {
	p := u.port
	if p == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p.mu.Lock()
	delete(p.byID, u.id)
	last := len(p.byID) == 0
	p.mu.Unlock()
	if last {
		delete(t.open, p.at)
		p.socket.conn.Close()
		p.reader.Wait() // whoever wants the port next finds it free
	}
}

// read takes packets until the port is closed.
func (p *port6) read() {
	for p.socket.wait(p.socket.raw) == nil {
		if p.readBatch() != nil {
			return
		}
	}
}

func (p *port6) readBatch() error {
	turns := p.socket.desk.turns()
	turns <- struct{}{}
	defer func() { <-turns }()
	in := incomings.Get().(*incoming)
	defer incomings.Put(in)
	n, err := p.socket.read(p.socket.conn, in)
	for i := range n {
		p.take(in.from(i), in.packet(i))
	}
	return err
}

// take gives a packet to its association. The id, which nobody can guess, is the
// sender's right to it.
func (p *port6) take(from netip.AddrPort, packet []byte) {
	m, err := ParseUDPMessage6(packet)
	if err != nil || m.Type != UDPDatagram6 {
		return
	}
	p.mu.Lock()
	u := p.byID[m.Association]
	p.mu.Unlock()
	if u != nil && unmapped(from).Addr() == u.host {
		u.take(from, m)
	}
}

// towards gives the port as it sends to one app.
func (p *port6) towards(app netip.AddrPort) *udpSocket {
	s := &udpSocket{conn: p.socket.conn, raw: p.socket.raw, batchConn: p.socket.batchConn}
	s.settle(app)
	return s
}

// put6 adds a message, if it can be said.
func (out *outgoing) put6(m UDPMessage6) {
	room := out.room(packetSpace6(m))
	if room == nil {
		return
	}
	if b, err := m.AppendBinary(room); err == nil {
		out.add(b)
	}
}
