package server

import (
	"context"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// associate carries out a UDP ASSOCIATE. The datagrams are the session's; the stream
// stands for the association, and both ends of it watch it.
func (l *lane) associate(ctx context.Context, stream *tunnel.Stream, c *caller, r socks.Request) {
	near := l.associations.Associate(stream)
	defer near.Close()
	far, reply, err := c.Associate(ctx, r, near)
	if err != nil {
		l.refuse(stream, l.failed(ctx, err))
		return
	}
	defer far.Close()
	if err := near.Open(towards{far}); err != nil {
		l.refuse(stream, socks.CodeOf(err))
		return
	}
	if err := answer(stream, reply); err != nil {
		stream.Reset()
		return
	}
	stream.SetDeadline(time.Time{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		near.Wait()
	}()
	select {
	case <-gone:
	case <-far.Done():
		near.Close()
		<-gone
	}
}

// towards is the Inbox of what goes to an association.
type towards struct{ socks.Association }

// Deliver sends datagrams.
func (t towards) Deliver(batch []socks.Datagram) { t.Send(batch) }

// Lost tells nobody: what the client has lost does not concern the exit.
func (t towards) Lost(socks.Loss) {}
