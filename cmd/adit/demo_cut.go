package main

import (
	"errors"
	"net"
	"sync"
)

// cuttable is a listener whose connections can be cut, as a network does it:
// neither end is told beforehand.
type cuttable struct {
	net.Listener

	mu    sync.Mutex
	conns []*net.TCPConn
}

// Accept keeps the few connections that a demo has.
func (l *cuttable) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		l.mu.Lock()
		l.conns = append(l.conns, tcp)
		l.mu.Unlock()
	}
	return c, err
}

// cut resets all connections there are.
func (l *cuttable) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		// Either fails only on a connection that has ended already.
		_ = errors.Join(c.SetLinger(0), c.Close())
	}
	l.conns = nil
}
