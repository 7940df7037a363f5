package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// Bind asks the server to open a port for connections from r.Dst. A name is resolved
// by the server. The port outlives carriers, and ends with the session.
func (c *Client) Bind(ctx context.Context, r socks.Request) (socks.Binding, socks.Reply, error) {
	g, err := c.request(ctx, r.User, &socks.Request6{
		Command: socks.Bind,
		Dst:     r.Dst,
		Options: socks.Options6{Stack: r.Stack, SessionRequest: r.Backlog() > 0},
	})
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, fmt.Errorf("bind: %w", err)
	}
	switch {
	case g.reply.Backlog() == 0:
		return &binding{stream: g.stream, turn: make(chan struct{}, 1)}, g.reply, nil
	case len(g.auth.SessionID) == 0:
		g.stream.Reset()
		return nil, socks.Reply{Code: socks.GeneralFailure}, fmt.Errorf("bind: %w", errNamelessPort)
	}
	return &sharedPort{session: g.lane.session, stream: g.stream, id: g.auth.SessionID, bound: g.reply.Bound}, g.reply, nil
}

var (
	errPortClosed   = fmt.Errorf("the port is closed: %w", net.ErrClosed)
	errNamelessPort = &socks.Error{Code: socks.GeneralFailure, Err: errors.New("the server does not say how to refer to a port for several peers")}
)

// binding is a port at the exit for one peer. Its stream becomes the connection with
// him.
type binding struct {
	stream *tunnel.Stream
	turn   chan struct{} // holds an item while an Accept is at work

	mu   sync.Mutex
	over bool // it is closed, or the peer has come
}

// Accept waits for the server's second reply.
func (b *binding) Accept(ctx context.Context) (relay.Conn, socks.Reply, error) {
	reply, err := b.accept(ctx)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, fmt.Errorf("wait for a peer: %w", err)
	}
	return b.stream, reply, nil
}

func (b *binding) accept(ctx context.Context) (socks.Reply, error) {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return socks.Reply{}, context.Cause(ctx)
	}
	if b.ended() {
		return socks.Reply{}, errPortClosed
	}
	if err := b.wait(ctx); err != nil {
		return socks.Reply{}, err
	}
	b.stream.SetReadDeadline(time.Now().Add(answerLimit))
	reply, err := readReply(b.stream)
	if err == nil {
		err = b.stream.SetReadDeadline(time.Time{})
	}
	if !b.end() {
		return socks.Reply{}, errPortClosed // meanwhile
	}
	if err != nil {
		b.stream.Reset()
		return socks.Reply{}, err
	}
	return reply, nil
}

// wait waits until there is something to read, and takes nothing of it: whoever
// calls Accept again finds it whole.
func (b *binding) wait(ctx context.Context) error {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		b.stream.SetReadDeadline(time.Unix(1, 0))
	})
	err := b.stream.WaitRead()
	if !stop() {
		<-woken
		b.stream.SetReadDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

func (b *binding) ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.over
}

// end tells whether it has not ended before.
func (b *binding) end() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.over
	b.over = true
	return first
}

// Close closes the port, unless the peer has come.
func (b *binding) Close() error {
	if b.end() {
		b.stream.Reset()
	}
	return nil
}

// sharedPort is a port at the exit for several peers. Its stream stands for it, and
// every connection has a stream of its own.
type sharedPort struct {
	session *session
	stream  *tunnel.Stream
	id      []byte
	bound   netip.AddrPort

	mu      sync.Mutex
	closed  bool
	waiting map[*tunnel.Stream]struct{} // for a peer
}

// Accept asks the server for the next connection.
func (p *sharedPort) Accept(ctx context.Context) (relay.Conn, socks.Reply, error) {
	stream, reply, err := p.accept(ctx)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, fmt.Errorf("wait for a peer: %w", err)
	}
	return stream, reply, nil
}

func (p *sharedPort) accept(ctx context.Context) (*tunnel.Stream, socks.Reply, error) {
	request, err := socks.Request6{
		Command: socks.Bind,
		Dst:     socks.Addr{IP: p.bound.Addr(), Port: p.bound.Port()},
		Options: socks.Options6{SessionID: p.id},
	}.AppendBinary(nil)
	if err != nil {
		return nil, socks.Reply{}, err
	}
	_, stream, err := p.session.open(ctx)
	if err != nil {
		return nil, socks.Reply{}, err
	}
	if !p.waits(stream) {
		stream.Reset()
		return nil, socks.Reply{}, errPortClosed
	}
	g, err := ask(ctx, stream, request)
	if closed := p.hasWaited(stream); closed && err != nil {
		err = errPortClosed
	}
	if err != nil {
		stream.Reset()
		return nil, socks.Reply{}, err
	}
	return stream, g.reply, nil
}

// waits notes that a stream waits for a peer, unless the port is closed.
func (p *sharedPort) waits(s *tunnel.Stream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if p.waiting == nil {
		p.waiting = make(map[*tunnel.Stream]struct{})
	}
	p.waiting[s] = struct{}{}
	return true
}

// hasWaited notes that it does not any more, and tells whether the port is closed.
func (p *sharedPort) hasWaited(s *tunnel.Stream) (closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, s)
	return p.closed
}

// Close closes the port.
func (p *sharedPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	for s := range p.waiting {
		s.Reset()
	}
	return p.stream.Reset()
}
