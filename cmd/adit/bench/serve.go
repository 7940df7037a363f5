//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// serve hands every connection to handle until ctx is done. Then it closes them
// all, and returns when every handle has.
func serve(ctx context.Context, ln net.Listener, handle func(net.Conn)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			handle(c)
		})
	}
}

// target is what sessions lead to.
type target struct {
	address  netip.AddrPort
	received atomic.Int64 // bytes, of drain
	cancel   context.CancelFunc
	ended    chan struct{}
}

// newTarget listens on loopback until it is closed.
func newTarget(ctx context.Context, behave func(*target, net.Conn)) (*target, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start a target: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &target{address: ln.Addr().(*net.TCPAddr).AddrPort(), cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		defer ln.Close()
		serve(ctx, ln, func(c net.Conn) { behave(t, c) })
	}()
	return t, nil
}

func (t *target) close() {
	t.cancel()
	<-t.ended
}

const (
	smallSize = 64
	bulkSize  = 256 << 10
)

// echo has a small buffer: there may be thousands.
func echo(_ *target, c net.Conn) {
	buf := make([]byte, smallSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// pour sends until nobody takes it.
func pour(_ *target, c net.Conn) { send(c) }

// drain counts what comes.
func drain(t *target, c net.Conn) { count(c, &t.received) }

// send writes what cannot be compressed until that fails.
func send(c net.Conn) error {
	block := make([]byte, bulkSize)
	rand.Read(block)
	for {
		if _, err := c.Write(block); err != nil {
			return err
		}
	}
}

// count reads until that fails.
func count(c net.Conn, n *atomic.Int64) error {
	buf := make([]byte, bulkSize)
	for {
		got, err := c.Read(buf)
		n.Add(int64(got))
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF // only the reader ends a session
		} else if err != nil {
			return err
		}
	}
}

// newDatagramTarget echoes datagrams until it is closed.
func newDatagramTarget() (*target, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("start a target: %w", err)
	}
	t := &target{address: c.LocalAddr().(*net.UDPAddr).AddrPort(), cancel: func() { c.Close() }, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				continue // somebody has gone, as ICMP says
			}
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return t, nil
}
