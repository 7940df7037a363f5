//go:build !unix

package socks

import (
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
)

// batchConn reads and writes one packet after the other.
type batchConn struct{}

func newBatchConn(*net.UDPConn, syscall.RawConn, netip.Addr) batchConn { return batchConn{} }

// wait waits for something to read, or a deadline. The raw connection does so when
// it is told that there was nothing.
func (batchConn) wait(raw syscall.RawConn) error {
	again := false
	return raw.Read(func(uintptr) bool {
		defer func() { again = true }()
		return again
	})
}

// read reads one packet, which is there already.
func (batchConn) read(c *net.UDPConn, in *incoming) (int, error) {
	m := &in.messages[0]
	n, from, err := c.ReadFromUDP(m.Buffers[0])
	if err != nil {
		return 0, err
	}
	m.N, m.Addr = n, from
	return 1, nil
}

// write sends the packets. What fails is lost, as it may be on the way.
func (batchConn) write(c *net.UDPConn, messages []ipv4.Message) {
	for _, m := range messages {
		_, _ = c.WriteTo(m.Buffers[0], m.Addr)
	}
}
