//go:build !linux

package wglink

import (
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

// batchIO reads and writes one datagram at a time.
type batchIO struct {
	udp  *net.UDPConn
	last *remote // whom the last datagram came from; read's own
}

func newBatchIO(udp *net.UDPConn) *batchIO { return &batchIO{udp: udp} }

func (b *batchIO) read(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
	n, at, err := b.udp.ReadFromUDPAddrPort(packets[0])
	if err != nil {
		return 0, err
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if b.last == nil || b.last.AddrPort != at {
		b.last = &remote{at}
	}
	sizes[0], from[0] = n, b.last
	return 1, nil
}

func (b *batchIO) write(packets [][]byte, to netip.AddrPort, _ uint32) error {
	var tooLarge error // those that are lost, and others are not
	for _, p := range packets {
		if _, err := b.udp.WriteToUDPAddrPort(p, to); isTooLarge(err) {
			tooLarge = err
		} else if err != nil {
			return err
		}
	}
	return tooLarge
}
