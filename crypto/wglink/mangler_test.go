package wglink

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// mangler is a network that loses every eleventh message of a WireGuard that is
// set up, brings others twice, and swaps neighbours.
type mangler struct {
	t  *testing.T
	to *net.UDPAddr
}

// lay gives the mangler's address.
func (m mangler) lay() string {
	near, far := listen(m.t), listen(m.t)
	clients := make(chan *net.UDPAddr, 1)
	var both sync.WaitGroup
	both.Go(func() {
		m.pass(near, func(from *net.UDPAddr, b []byte) {
			select {
			case clients <- from:
			default:
			}
			_, _ = far.WriteToUDP(b, m.to)
		})
	})
	both.Go(func() {
		var client *net.UDPAddr
		m.pass(far, func(_ *net.UDPAddr, b []byte) {
			if client == nil {
				client = <-clients
			}
			_, _ = near.WriteToUDP(b, client)
		})
	})
	m.t.Cleanup(func() {
		_, _ = near.Close(), far.Close()
		both.Wait()
	})
	return near.LocalAddr().String()
}

func (mangler) pass(c *net.UDPConn, on func(from *net.UDPAddr, b []byte)) {
	var kept []byte
	for i, b := 0, make([]byte, 1<<16); ; i++ {
		n, from, err := c.ReadFromUDP(b)
		switch {
		case err != nil:
			return
		case b[0] != messageData:
			on(from, b[:n])
			continue
		case i%11 == 10:
			continue
		case i%3 == 0 && kept == nil:
			kept = bytes.Clone(b[:n])
			continue
		}
		on(from, b[:n])
		if i%4 == 0 {
			on(from, b[:n])
		}
		if kept != nil {
			on(from, kept)
			kept = nil
		}
	}
}
