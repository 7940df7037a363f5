package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// requestLimit is how long a stream may take to say what it wants.
const requestLimit = 10 * time.Second

// flow is one request, from its arrival to the end of what it asked for.
type flow struct {
	lane    *lane
	stream  *tunnel.Stream
	request socks.Request
	began   time.Time
}

// handle serves one stream of the lane.
func (l *lane) handle(ctx context.Context, stream *tunnel.Stream) {
	f := &flow{lane: l, stream: stream, began: time.Now()}
	room := l.server.takeStream(l.user.Name)
	if room {
		defer l.server.dropStream(l.user.Name)
	}
	stream.SetDeadline(f.began.Add(requestLimit))
	request, err := socks.ReadRequest6(stream)
	if err != nil {
		// An honest client sends its request at once, and a right one.
		l.tun.Strike()
		stream.Reset()
		l.log.Debug("bad request", "error", err)
		return
	}
	f.request = socks.Request{
		Command: request.Command,
		Dst:     request.Dst,
		Dialect: socks.SOCKS6,
		User:    l.user.Name,
		Source:  l.last().Remote,
	}
	switch {
	case !room:
		// Refused only now: a stream that is closed with its request unread is reset,
		// and the reply may be lost.
		f.refuse(ctx, socks.GeneralFailure, errors.New("the user has too many streams open"))
	case request.Command == socks.Connect:
		f.connect(ctx)
	default:
		f.refuse(ctx, socks.CommandNotSupported, socks.CommandNotSupported)
	}
}

// connect carries out a CONNECT.
func (f *flow) connect(ctx context.Context) {
	target, reply, err := f.lane.server.cfg.Relay.Connect(ctx, f.request)
	if err != nil {
		if ctx.Err() != nil {
			// The client has changed its mind. Who does so all the time wants us
			// to work for nothing.
			f.lane.tun.Strike()
		}
		f.refuse(ctx, socks.CodeOf(err), err)
		return
	}
	if err := f.reply(reply); err != nil {
		target.Reset()
		f.stream.Reset()
		f.log(ctx, socks.Succeeded, relay.Result{Err: err})
		return
	}
	f.stream.SetDeadline(time.Time{})
	f.log(ctx, socks.Succeeded, f.carry(ctx, target))
}

// lastWords is how long a target has to take what the app had sent before it
// reset the connection.
const lastWords = 5 * time.Second

// carry relays until both directions have ended. ctx ends as soon as the peer
// resets the stream, but what came before is the target's all the same, as it is on
// a TCP connection. The end of the session cuts everything off.
func (f *flow) carry(ctx context.Context, target relay.Conn) relay.Result {
	copying, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		select {
		case <-f.lane.tun.Done():
		case <-time.After(lastWords):
		case <-copying.Done():
		}
		cut(context.Cause(ctx))
	})
	r := relay.Copy(copying, f.stream, target)
	cut(nil)
	if !stop() {
		<-ended
	}
	return r
}

// reply sends the authentication reply, which is always good because the
// session is authenticated, and the operation reply in one piece.
func (f *flow) reply(r socks.Reply) error {
	b, err := socks.AuthReply6{OK: true}.AppendBinary(nil)
	if err != nil {
		return err
	}
	op := socks.OperationReply6{Code: r.Code, Bound: socks.Addr{IP: r.Bound.Addr(), Port: r.Bound.Port()}}
	if b, err = op.AppendBinary(b); err != nil {
		return err
	}
	// The target may have taken longer than the request was allowed to.
	f.stream.SetDeadline(time.Now().Add(requestLimit))
	_, err = f.stream.Write(b)
	return err
}

// refuse answers with a failure and ends the stream.
func (f *flow) refuse(ctx context.Context, code socks.Code, reason error) {
	if err := f.reply(socks.Reply{Code: code}); err != nil {
		f.stream.Reset()
	}
	f.log(ctx, code, relay.Result{Err: reason})
}

// log writes the flow's line.
func (f *flow) log(ctx context.Context, code socks.Code, r relay.Result) {
	log := f.lane.log
	attrs := []slog.Attr{
		slog.Any("remote", f.request.Source),
		slog.Int("code", int(code)),
		slog.Int64("up", r.Up),
		slog.Int64("down", r.Down),
		slog.Duration("duration", time.Since(f.began).Round(time.Millisecond)),
	}
	if log.Enabled(ctx, slog.LevelDebug) {
		attrs = append(attrs, slog.String("target", f.request.Dst.String()))
		if r.Err != nil {
			attrs = append(attrs, slog.Any("error", r.Err))
		}
	}
	log.LogAttrs(ctx, slog.LevelInfo, "flow ended", attrs...)
}
