package server

import (
	"context"
	"crypto/rand"
	"encoding"
	"io"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// bind carries out a BIND. If one peer may come, the stream is the connection with
// him. If several may, it stands for the port, and each gets a stream of his own: a
// BIND that names the port by the id that the client was given.
func (l *lane) bind(ctx context.Context, stream *tunnel.Stream, c *caller, r socks.Request, o socks.Options6) {
	if len(o.SessionID) > 0 {
		l.acceptAt(ctx, stream, o.SessionID)
		return
	}
	binding, reply, err := c.Bind(ctx, r)
	if err != nil {
		l.refuse(stream, l.failed(ctx, err))
		return
	}
	defer binding.Close()
	if reply.Backlog() > 0 {
		l.lend(stream, binding, reply)
		return
	}
	if err := answer(stream, reply); err != nil {
		stream.Reset()
		return
	}
	l.accept(ctx, stream, binding)
}

// accept waits for a peer, and makes the stream the connection with him. What was
// not answered yet goes before the reply.
func (l *lane) accept(ctx context.Context, stream *tunnel.Stream, binding socks.Binding, before ...encoding.BinaryAppender) {
	peer, reply, err := binding.Accept(ctx)
	if err != nil {
		reply = socks.Reply{Code: l.failed(ctx, err)}
	}
	if err := send(stream, append(before, operation(reply))...); err != nil {
		if peer != nil {
			relay.Fail(peer, err)
		}
		stream.Reset()
		return
	}
	if peer == nil {
		return
	}
	stream.SetDeadline(time.Time{})
	var over sync.WaitGroup
	over.Add(1)
	l.carry(stream, peer, over.Done)
	over.Wait() // the port is closed then, which may end the connection
}

// lend keeps a port open for as long as its stream is.
func (l *lane) lend(stream *tunnel.Stream, binding socks.Binding, reply socks.Reply) {
	id := l.ports.add(binding)
	defer l.ports.remove(id)
	auth := socks.AuthReply6{OK: true, Options: socks.Options6{SessionID: id}}
	if err := send(stream, auth, operation(reply)); err != nil {
		stream.Reset()
		return
	}
	stream.SetDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, stream)
}

// acceptAt is accept at a port that another stream stands for.
func (l *lane) acceptAt(ctx context.Context, stream *tunnel.Stream, id []byte) {
	binding := l.ports.find(id)
	if binding == nil {
		if err := send(stream, socks.AuthReply6{Options: socks.Options6{SessionInvalid: true}}); err != nil {
			stream.Reset()
		}
		return
	}
	l.accept(ctx, stream, binding, socks.AuthReply6{OK: true, Options: socks.Options6{SessionOK: true}})
}

// ports are the ports of a session that several peers may come to, by their ids. The
// lanes share them.
type ports struct {
	mu   sync.Mutex
	byID map[string]socks.Binding
}

func (p *ports) add(b socks.Binding) (id []byte) {
	id = make([]byte, 8)
	rand.Read(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID == nil {
		p.byID = make(map[string]socks.Binding)
	}
	p.byID[string(id)] = b
	return id
}

func (p *ports) remove(id []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byID, string(id))
}

// find gives nil if there is no such port.
func (p *ports) find(id []byte) socks.Binding {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byID[string(id)]
}
