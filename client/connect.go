package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// Connect asks the server to connect to r.Dst. A name is resolved by the
// server. It makes Client a [socks.Relay].
func (c *Client) Connect(ctx context.Context, r socks.Request) (relay.Conn, socks.Reply, error) {
	request, err := socks.Request6{Command: socks.Connect, Dst: r.Dst}.AppendBinary(nil)
	if err != nil {
		return failed(socks.GeneralFailure, fmt.Errorf("connect: %w", err))
	}
	for {
		session, stream, err := c.open(ctx)
		if err != nil {
			return failed(socks.NetworkUnreachable, fmt.Errorf("connect: %w", err))
		}
		reply, err := ask(ctx, stream, request)
		if err == nil {
			return stream, reply, nil
		}
		stream.Reset()
		if errors.Is(err, tunnel.ErrRefused) && drains(session) {
			continue // the server has not looked at the request: ask in the next session
		}
		return nil, reply, fmt.Errorf("connect: %w", err)
	}
}

func drains(s *tunnel.Session) bool {
	select {
	case <-s.Draining():
		return true
	default:
		return false
	}
}

func failed(code socks.Code, err error) (relay.Conn, socks.Reply, error) {
	return nil, socks.Reply{Code: code}, &socks.Error{Code: code, Err: err}
}

// open opens a stream in the session there is, or in the next one.
func (c *Client) open(ctx context.Context) (*tunnel.Session, *tunnel.Stream, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Patience, errNoSession)
	defer cancel()
	for {
		session, err := c.current(ctx)
		if err != nil {
			return nil, nil, err
		}
		stream, err := session.Open(ctx)
		if err == nil || !errors.Is(err, tunnel.ErrDraining) && !errors.Is(err, tunnel.ErrSessionLost) {
			return session, stream, err
		}
		c.drop(session)
	}
}

var errNoSession = errors.New("there is no session with the server")

// answerLimit bounds the wait for the server's replies. The server gives up on
// a target long before.
const answerLimit = time.Minute

// ask sends a request and reads the server's two replies.
func ask(ctx context.Context, stream *tunnel.Stream, request []byte) (socks.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { stream.Reset() })
	defer stop()
	reply, err := exchange(stream, request)
	if !stop() {
		return reply, context.Cause(ctx)
	}
	return reply, err
}

func exchange(stream *tunnel.Stream, request []byte) (socks.Reply, error) {
	failure := socks.Reply{Code: socks.GeneralFailure}
	if _, err := stream.Write(request); err != nil {
		return failure, err
	}
	auth, err := socks.ReadAuthReply6(stream)
	if err != nil {
		return failure, err
	}
	if !auth.OK {
		return socks.Reply{Code: socks.NotAllowed}, socks.NotAllowed
	}
	op, err := socks.ReadOperationReply6(stream)
	if err != nil {
		return failure, err
	}
	reply := socks.Reply{Code: op.Code, Bound: netip.AddrPortFrom(op.Bound.IP, op.Bound.Port)}
	if op.Code != socks.Succeeded {
		return reply, op.Code
	}
	return reply, nil
}

// DialContext connects to an address through the server, which resolves it if
// it is a name. network is "tcp"; "tcp4" and "tcp6" are refused, because the
// server chooses. The conn is a [relay.Conn]: it can end one direction and be reset. It fits
// http.Transport.DialContext.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" {
		return nil, fmt.Errorf("dial %s: %w", network, net.UnknownNetworkError(network))
	}
	dst, err := socks.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	conn, _, err := c.Connect(ctx, socks.Request{Command: socks.Connect, Dst: dst})
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: dst, Err: err}
	}
	return conn, nil
}
