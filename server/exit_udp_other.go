//go:build !linux

package server

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/adit-net/adit/tunnel/socks"
)

// udpSocket is a UDP port. It sends and receives datagrams one by one.
type udpSocket struct {
	conn *net.UDPConn
}

func openUDP(ctx context.Context, way Steer, port uint16) (*udpSocket, error) {
	conn, err := way.listenUDP(ctx, port)
	if err != nil {
		return nil, err
	}
	return &udpSocket{conn}, nil
}

func (s *udpSocket) bound() netip.AddrPort { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (s *udpSocket) close() { s.conn.Close() }

// send sends packets. It does not wait: these systems hand a datagram on or
// refuse it, but have no queue of them at the socket.
func (s *udpSocket) send(packets []packet) (full, unknown int) {
	for _, p := range packets {
		if _, err := s.conn.WriteToUDPAddrPort(p.payload, p.to); err != nil {
			if code := socks.CodeOf(err); code == socks.GeneralFailure {
				full++
			} else {
				unknown++
			}
		}
	}
	return full, unknown
}

// wait returns when there is something to read, or an error, which is
// net.ErrClosed once the socket is closed. These systems do not tell of losses.
func (s *udpSocket) wait(func(socks.Loss)) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	return waitReadable(raw)
}

// read gives away one datagram. An error is for wait to find again.
func (s *udpSocket) read(deliver func([]socks.Datagram)) {
	buffer := udpBuffers.Get().(*[64 << 10]byte)
	defer udpBuffers.Put(buffer)
	n, from, err := s.conn.ReadFromUDPAddrPort(buffer[:])
	if err != nil {
		return
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	deliver([]socks.Datagram{{Addr: socks.Addr{IP: from.Addr(), Port: from.Port()}, Payload: buffer[:n]}})
}

var udpBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}
