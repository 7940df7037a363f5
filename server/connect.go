package server

import (
	"context"
	"encoding"
	"runtime"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// requestLimit is how long a stream may take to say what it wants.
const requestLimit = 10 * time.Second

// handle serves one stream of the lane.
func (l *lane) handle(ctx context.Context, stream *tunnel.Stream) {
	if target := l.obey(ctx, stream); target != nil {
		l.carry(stream, target, func() {}) // here, where there is little on the stack
	}
}

// obey carries out what a stream is for, and gives whom it is to be relayed to from then on,
// or nil.
func (l *lane) obey(ctx context.Context, stream *tunnel.Stream) relay.Conn {
	growStack()
	stream.SetDeadline(time.Now().Add(requestLimit))
	request, err := socks.ReadRequest6(stream)
	if err != nil {
		// An honest client sends its request at once, and a right one.
		l.tun.Strike()
		stream.Reset()
		l.log.Debug("bad request", "error", err)
		return nil
	}
	r := socks.Request{
		Command: request.Command,
		Dst:     request.Dst,
		Dialect: socks.SOCKS6,
		Source:  l.last().Remote,
		Stack:   request.Options.Stack,
	}
	if r.Initial, err = socks.ReadInitial6(stream, request.Options.Offer); err != nil {
		stream.Reset() // the client has changed its mind
		return nil
	}
	c := l.callerFor(request.Options)
	if c == nil {
		l.reject(stream)
		return nil
	}
	switch r.Command {
	case socks.Noop:
		l.login(ctx, stream, request.Options)
	case socks.Connect:
		return l.connect(ctx, stream, c, r)
	case socks.Bind:
		l.bind(ctx, stream, c, r, request.Options)
	case socks.Associate:
		l.associate(ctx, stream, c, r)
	default:
		l.refuse(stream, socks.CommandNotSupported)
	}
	return nil
}

// growStack gives the goroutine's stack what a request needs of it, which is more than 6 KiB, while
// there is little on it. It grows by itself, but step by step, and copies all that is on it each time.
//
//go:noinline
func growStack() {
	var room [7 << 10]byte
	runtime.KeepAlive(&room)
}

// connect carries out a CONNECT, and gives the target, or nil.
func (l *lane) connect(ctx context.Context, stream *tunnel.Stream, c *caller, r socks.Request) relay.Conn {
	target, reply, err := c.Connect(ctx, r)
	if err != nil {
		l.refuse(stream, l.failed(ctx, err))
		return nil
	}
	if err := answer(stream, reply); err != nil {
		relay.Fail(target, err)
		stream.Reset()
		return nil
	}
	stream.SetDeadline(time.Time{})
	return target
}

// lastWords is how long a target has to take what the app had sent before it
// reset the connection.
const lastWords = 5 * time.Second

// carry relays until both directions have ended, which may be long after it has returned, and
// then calls over. When the peer resets the stream, what came before is the target's all the same,
// as it is on a TCP connection, but not for long. The end of the session cuts everything off.
func (l *lane) carry(stream *tunnel.Stream, target relay.Conn, over func()) {
	c := &carrying{session: l.tun, target: target}
	stream.Hold(c.cut)
	relay.Start(stream, target, func(relay.Result) {
		c.end()
		stream.Release()
		over()
	})
}

// carrying is what carry has begun.
type carrying struct {
	session *tunnel.Session
	target  relay.Conn

	mu    sync.Mutex
	limit *time.Timer // breaks the connection to the target; nil: nothing is to
	ended bool
}

// cut breaks the connection to the target: in a while, or at once if the session is over.
func (c *carrying) cut() {
	left := lastWords
	select {
	case <-c.session.Done():
		left = 0
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
	case c.limit == nil:
		c.limit = time.AfterFunc(left, func() { relay.Fail(c.target, context.Canceled) })
	case left == 0:
		c.limit.Reset(0)
	}
}

func (c *carrying) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.limit != nil {
		c.limit.Stop()
	}
}

// answer sends the authentication reply, which is always good because the
// session is authenticated, and the operation reply in one piece.
func answer(stream *tunnel.Stream, r socks.Reply) error {
	b, err := socks.AuthReply6{OK: true}.AppendBinary(make([]byte, 0, usualAnswer))
	if err == nil {
		b, err = operation(r).AppendBinary(b)
	}
	if err != nil {
		return err
	}
	return write(stream, b)
}

// usualAnswer is how many bytes most answers fit into.
const usualAnswer = 64

func operation(r socks.Reply) socks.OperationReply6 {
	return socks.OperationReply6{
		Code:    r.Code,
		Bound:   socks.Addr{IP: r.Bound.Addr(), Port: r.Bound.Port()},
		Options: socks.Options6{Stack: r.Stack},
	}
}

// send sends messages in one piece.
func send(stream *tunnel.Stream, messages ...encoding.BinaryAppender) error {
	var b []byte
	for _, m := range messages {
		var err error
		if b, err = m.AppendBinary(b); err != nil {
			return err
		}
	}
	return write(stream, b)
}

func write(stream *tunnel.Stream, b []byte) error {
	// The target may have taken longer than the request was allowed to.
	stream.SetDeadline(time.Now().Add(requestLimit))
	_, err := stream.Write(b)
	return err
}

// failed gives the code of what has failed for a request. If ctx has ended the client has changed
// its mind: who does so all the time wants us to work for nothing.
func (l *lane) failed(ctx context.Context, err error) socks.Code {
	if ctx.Err() != nil {
		l.tun.Strike()
	}
	return socks.CodeOf(err)
}

// refuse answers with a failure and ends the stream.
func (l *lane) refuse(stream *tunnel.Stream, code socks.Code) {
	if err := answer(stream, socks.Reply{Code: code}); err != nil {
		stream.Reset()
	}
}

// reject says that a request refers to a login that there is not, and ends the stream.
func (l *lane) reject(stream *tunnel.Stream) {
	if err := send(stream, socks.AuthReply6{}); err != nil {
		stream.Reset()
	}
}
