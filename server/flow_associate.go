package server

import (
	"context"
	"sync"

	"github.com/adit-net/adit/tunnel/socks"
)

// Associate opens a port for datagrams.
func (c *caller) Associate(ctx context.Context, r socks.Request, in socks.Inbox) (socks.Association, socks.Reply, error) {
	f, err := c.begin(ctx, r)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	association, reply, err := c.server.cfg.Relay.Associate(ctx, f.request, watchedInbox{in, f})
	if err != nil {
		f.refused(err)
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	a := &watchedAssociation{Association: association, flow: f}
	if reason := f.holds(a.cut); reason != nil {
		a.cut(reason)
		a.Close()
		return nil, socks.Reply{Code: socks.NotAllowed}, &socks.Error{Code: socks.NotAllowed, Err: reason}
	}
	return a, reply, nil
}

// watchedAssociation is a port for datagrams that counts what goes through it, and
// tells its flow when it ends and why.
type watchedAssociation struct {
	socks.Association
	flow *flow

	mu  sync.Mutex
	why error // it was cut
}

// Send counts what goes to the exit, whether that is allowed there or not.
func (a *watchedAssociation) Send(batch []socks.Datagram) {
	a.flow.up.Add(payload(batch))
	a.flow.sent.Add(int64(len(batch)))
	a.Association.Send(batch)
}

// cut closes the port for a reason. Whoever has it sees that it is done and closes
// it, too, and that ends the flow.
func (a *watchedAssociation) cut(reason error) {
	a.mu.Lock()
	a.why = reason
	a.mu.Unlock()
	a.Association.Close()
}

// Close closes the port and ends the flow.
func (a *watchedAssociation) Close() error {
	err := a.Association.Close()
	a.mu.Lock()
	why := a.why
	a.mu.Unlock()
	a.flow.end(why, socks.Succeeded)
	return err
}

// watchedInbox counts what comes.
type watchedInbox struct {
	socks.Inbox
	flow *flow
}

func (in watchedInbox) Deliver(batch []socks.Datagram) {
	in.flow.down.Add(payload(batch))
	in.flow.received.Add(int64(len(batch)))
	in.Inbox.Deliver(batch)
}

// payload is how many bytes datagrams have.
func payload(batch []socks.Datagram) (n int64) {
	for _, d := range batch {
		n += int64(len(d.Payload))
	}
	return n
}
