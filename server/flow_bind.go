package server

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

var errUserBinds = &socks.Error{Code: socks.GeneralFailure, Err: errors.New("the user has too many ports open")}

// Bind opens a port for connections.
func (c *caller) Bind(ctx context.Context, r socks.Request) (socks.Binding, socks.Reply, error) {
	f, err := c.begin(ctx, r)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	binding, reply, err := c.bind(ctx, f)
	if err != nil {
		f.refused(err)
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	return binding, reply, nil
}

func (c *caller) bind(ctx context.Context, f *flow) (*watchedBinding, socks.Reply, error) {
	if !c.server.takeBind(c.user) {
		return nil, socks.Reply{}, errUserBinds
	}
	binding, reply, err := c.server.cfg.Relay.Bind(ctx, f.request)
	if err != nil {
		c.server.dropBind(c.user)
		return nil, socks.Reply{}, err
	}
	b := &watchedBinding{Binding: binding, flow: f, many: reply.Backlog() > 0}
	if reason := f.holds(b.cut); reason != nil {
		b.close()
		return nil, socks.Reply{}, &socks.Error{Code: socks.NotAllowed, Err: reason}
	}
	return b, reply, nil
}

// watchedBinding is a port that tells its flow what comes of it. The flow of a port
// for one peer goes on as the flow of the connection with him; every connection at a port for
// several is a flow of its own.
type watchedBinding struct {
	socks.Binding
	flow *flow
	many bool

	mu     sync.Mutex
	closed bool
	handed bool  // the flow belongs to a connection
	cutOff error // why there must not be a peer
	why    error // why the last Accept gave none
}

// Accept waits for a peer.
func (b *watchedBinding) Accept(ctx context.Context) (relay.Conn, socks.Reply, error) {
	conn, reply, err := b.Binding.Accept(ctx)
	if err != nil {
		err = b.failed(err)
	} else {
		conn, err = b.connected(ctx, conn, reply.Bound)
	}
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	return conn, reply, nil
}

// connected gives the conn through which a flow's bytes go.
func (b *watchedBinding) connected(ctx context.Context, conn relay.Conn, peer netip.AddrPort) (relay.Conn, error) {
	f, err := b.flowOf(ctx, peer)
	if err != nil {
		relay.Fail(conn, err)
		return nil, err
	}
	return f.connected(conn)
}

// flowOf gives the flow of the connection with a peer.
func (b *watchedBinding) flowOf(ctx context.Context, peer netip.AddrPort) (*flow, error) {
	dst := socks.Addr{IP: peer.Addr(), Port: peer.Port()}
	if b.many {
		r := b.flow.request
		r.Dst = dst
		return b.flow.caller.beginTo(ctx, r, destination{b.flow.to.name, peer})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errPortClosed
	}
	b.handed = true
	b.flow.request.Dst = dst
	b.flow.reached(peer)
	b.flow.caller.server.dropBind(b.flow.caller.user)
	return b.flow, nil
}

// failed notes why no peer has come, and says it.
func (b *watchedBinding) failed(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cutOff != nil {
		err = b.cutOff
	}
	b.why = err
	return err
}

// cut closes the port for a reason. Whoever has it closes it, too, and that ends the
// flow.
func (b *watchedBinding) cut(reason error) {
	b.mu.Lock()
	b.cutOff = &socks.Error{Code: socks.NotAllowed, Err: reason}
	b.why = b.cutOff
	b.mu.Unlock()
	b.Binding.Close()
}

// Close closes the port, and ends the flow unless it has become a connection's.
func (b *watchedBinding) Close() error {
	if err, ended := b.close(); ended {
		b.flow.end(err, socks.CodeOf(err))
	}
	return nil
}

// close tells whether there was only the port, and why no peer has come.
func (b *watchedBinding) close() (why error, ended bool) {
	b.Binding.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.handed {
		return nil, false
	}
	b.closed = true
	b.flow.caller.server.dropBind(b.flow.caller.user)
	return b.why, true
}
