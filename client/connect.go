package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// maxTries is in how many lanes a request is made, one after the other, if
// each ends before it has answered.
const maxTries = 3

// Connect asks the server to connect to r.Dst. A name is resolved by the
// server. It makes Client a [socks.Relay].
func (c *Client) Connect(ctx context.Context, r socks.Request) (relay.Conn, socks.Reply, error) {
	q := &socks.Request6{Command: socks.Connect, Dst: r.Dst, Options: socks.Options6{Stack: r.Stack}}
	g, err := c.requestEarly(ctx, r.User, q, r.Initial)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, fmt.Errorf("connect: %w", err)
	}
	return g.stream, g.reply, nil
}

// granted is a request that the server has granted.
type granted struct {
	lane   *lane
	stream *tunnel.Stream
	reply  socks.Reply
	auth   socks.Options6 // of the first of the server's replies
}

// request makes a request in a stream of its own, for a user who has logged in or for
// the device's.
func (c *Client) request(ctx context.Context, user string, q *socks.Request6) (*granted, error) {
	return c.requestEarly(ctx, user, q, nil)
}

// requestEarly makes a request with the first bytes behind it.
func (c *Client) requestEarly(ctx context.Context, user string, q *socks.Request6, first []byte) (*granted, error) {
	if len(first) > socks.MaxInitialData6 {
		return nil, &socks.Error{Code: socks.GeneralFailure, Err: fmt.Errorf("%d first bytes are too many", len(first))}
	}
	for try := 1; ; try++ {
		lane, stream, err := c.open(ctx)
		if err != nil {
			return nil, err
		}
		request, err := c.encode(user, lane.session, q, first)
		if err != nil {
			stream.Reset()
			return nil, err
		}
		g, err := askInTime(ctx, stream, request)
		if err == nil {
			g.lane = lane
			return g, nil
		}
		stream.Reset()
		if try == maxTries || !unanswered(lane, err) {
			return nil, err
		}
		if len(first) > 0 && !errors.Is(err, tunnel.ErrRefused) {
			return nil, err // the target may have them, and must not get them twice
		}
	}
}

// encode gives the bytes of a request in a session.
func (c *Client) encode(user string, s *session, q *socks.Request6, first []byte) ([]byte, error) {
	login, err := c.loginOf(user, s)
	if err != nil {
		return nil, err
	}
	if len(login) > 0 {
		with := *q
		with.Options.Auth = slices.Concat(q.Options.Auth, login)
		q = &with
	}
	b, err := withFirst(q, first)
	if err != nil {
		return nil, &socks.Error{Code: socks.GeneralFailure, Err: err}
	}
	return b, nil
}

// withFirst gives the bytes of a request, which says how many follow it.
func withFirst(q *socks.Request6, first []byte) ([]byte, error) {
	if len(first) > 0 {
		q.Options.Offer = &socks.MethodOffer6{InitialData: uint16(len(first))}
	}
	b, err := q.AppendBinary(nil)
	return append(b, first...), err
}

// unanswered tells whether a request can be made again in another lane, or the
// next session, because this one is lost or takes no more. At worst the server has connected to
// the target, and no byte has gone there. Whether a lost lane was drained
// cannot be told: a carrier that breaks may take the server's last words with it.
func unanswered(l *lane, err error) bool {
	if errors.Is(err, tunnel.ErrSessionLost) {
		return true
	}
	select {
	case <-l.Draining():
		return errors.Is(err, tunnel.ErrRefused)
	default:
		return false
	}
}

// open opens a stream in the session there is, or in the next one.
func (c *Client) open(ctx context.Context) (*lane, *tunnel.Stream, error) {
	if lane, stream := c.openNow(); stream != nil {
		return lane, stream, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Patience, errPatience)
	defer cancel()
	var session *session
	for {
		var err error
		if session, err = c.await(ctx, session); err != nil {
			return nil, nil, &socks.Error{Code: socks.NetworkUnreachable, Err: err}
		}
		lane, stream, err := session.open(ctx)
		switch {
		case err == nil:
			return lane, stream, nil
		case errors.Is(err, tunnel.ErrDetached):
			return nil, nil, &socks.Error{Code: socks.NetworkUnreachable, Err: err}
		case !errors.Is(err, tunnel.ErrDraining) && !errors.Is(err, tunnel.ErrSessionLost):
			if errors.Is(err, tunnel.ErrFull) && errors.Is(err, errPatience) {
				c.tellFull(lane)
			}
			return nil, nil, &socks.Error{Code: socks.GeneralFailure, Err: err}
		}
	}
}

// openNow opens a stream if that takes no waiting, as it does nearly always.
func (c *Client) openNow() (*lane, *tunnel.Stream) {
	c.mu.Lock()
	session := c.session
	c.mu.Unlock()
	if session == nil {
		return nil, nil
	}
	lane, _, err := session.choose()
	if err != nil || lane == nil {
		return nil, nil
	}
	defer session.opened(lane)
	return lane, lane.OpenNow()
}

var errPatience = errors.New("no stream could be opened in time")

// fullEvery bounds how often the log says that a session is full: of a thousand apps that
// wait, each finds it so.
const fullEvery = time.Minute

// tellFull says in the log that apps have waited in vain, which nothing else there tells.
func (c *Client) tellFull(l *lane) {
	c.mu.Lock()
	due := time.Since(c.full) >= fullEvery
	if due {
		c.full = time.Now()
	}
	c.mu.Unlock()
	if due {
		c.cfg.Log.Warn("the server allows no more streams: apps wait in vain", "streams", l.Stats().Streams)
	}
}

// answerLimit bounds the wait for the server's replies. The server gives up on
// a target long before.
const answerLimit = time.Minute

func askInTime(ctx context.Context, stream *tunnel.Stream, request []byte) (*granted, error) {
	late := time.AfterFunc(answerLimit, func() { stream.Reset() })
	g, err := ask(ctx, stream, request)
	if !late.Stop() {
		return nil, context.DeadlineExceeded
	}
	return g, err
}

// ask sends a request and reads the server's two replies. When ctx ends it
// resets the stream.
func ask(ctx context.Context, stream *tunnel.Stream, request []byte) (*granted, error) {
	stop := context.AfterFunc(ctx, func() { stream.Reset() })
	g, err := exchange(stream, request)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return g, err
}

func exchange(stream *tunnel.Stream, request []byte) (*granted, error) {
	if _, err := stream.Write(request); err != nil {
		return nil, broken(err)
	}
	auth, err := socks.ReadAuthReply6(stream)
	if err != nil {
		return nil, broken(err)
	}
	if !auth.OK {
		return nil, socks.NotAllowed
	}
	g := &granted{stream: stream, auth: auth.Options}
	g.reply, err = readReply(stream)
	return g, err
}

// readReply reads an operation reply, and makes an error of a failure.
func readReply(stream *tunnel.Stream) (socks.Reply, error) {
	op, err := socks.ReadOperationReply6(stream)
	if err != nil {
		return socks.Reply{}, broken(err)
	}
	if op.Code != socks.Succeeded {
		return socks.Reply{}, op.Code
	}
	return socks.Reply{Bound: netip.AddrPortFrom(op.Bound.IP, op.Bound.Port), Stack: op.Options.Stack}, nil
}

// broken is how an exchange ends that gave no answer. A stream that was reset
// must not look like a target that refused.
func broken(err error) error { return &socks.Error{Code: socks.GeneralFailure, Err: err} }

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
	return c.dial(ctx, dst, nil)
}

// DialEarly is DialContext for who knows what to say first. That goes along with the
// request, and saves its way there and back: at most [socks.MaxInitialData6] bytes,
// for a target that does not speak first. An error does not tell whether the target
// has got them.
func (c *Client) DialEarly(ctx context.Context, address string, first []byte) (net.Conn, error) {
	dst, err := socks.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	return c.dial(ctx, dst, first)
}

func (c *Client) dial(ctx context.Context, dst socks.Addr, first []byte) (net.Conn, error) {
	conn, _, err := c.Connect(ctx, socks.Request{Command: socks.Connect, Dst: dst, Initial: first})
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: dst.Network(), Addr: dst, Err: err}
	}
	return conn, nil
}
