package server

import (
	"context"
	"sync"

	"github.com/adit-net/adit/server/shape"
	"github.com/adit-net/adit/tunnel/socks"
)

// Associate opens a port for datagrams.
func (c *caller) Associate(ctx context.Context, r socks.Request, in socks.Inbox) (socks.Association, socks.Reply, error) {
	f, err := c.begin(ctx, r)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	inbox := newWatchedInbox(in, f)
	association, reply, err := c.server.cfg.Relay.Associate(ctx, f.request, inbox)
	if err != nil {
		f.refused(err)
		return nil, socks.Reply{Code: socks.CodeOf(err)}, err
	}
	a := newWatchedAssociation(association, f, inbox)
	if kept, ok := association.(forgetful); ok {
		f.forgets(kept.Forget)
	}
	if reason := f.holds(a.cut); reason != nil {
		a.cut(reason)
		a.Close()
		return nil, socks.Reply{Code: socks.NotAllowed}, &socks.Error{Code: socks.NotAllowed, Err: reason}
	}
	return a, reply, nil
}

// forgetful is an association that keeps for a while what it was permitted.
type forgetful interface {
	// Forget has it ask again. It is safe for concurrent use, and does not wait.
	Forget()
}

// forgets has f called whenever rules are to be asked anew, and now.
func (f *flow) forgets(forget func()) {
	f.mu.Lock()
	f.forgetter = forget
	f.mu.Unlock()
	forget() // rules may have changed before
}

// forget has rules asked anew about each destination of an association.
func (f *flow) forget() {
	f.mu.Lock()
	forget := f.forgetter
	f.mu.Unlock()
	if forget != nil {
		forget()
	}
}

// watchedAssociation is a port for datagrams that counts what goes through it, and
// tells its flow when it ends and why.
type watchedAssociation struct {
	socks.Association
	flow *flow
	up   datagramQueue
	down *datagramQueue

	mu  sync.Mutex
	why error // it was cut
}

func newWatchedAssociation(a socks.Association, f *flow, in *watchedInbox) *watchedAssociation {
	return &watchedAssociation{
		Association: a,
		flow:        f,
		up:          datagramQueue{part: f.part, way: shape.Up, pass: a.Send},
		down:        &in.queue,
	}
}

// Send counts what goes to the exit, whether that is allowed there or not.
func (a *watchedAssociation) Send(batch []socks.Datagram) {
	a.flow.went(payload(batch))
	a.flow.sent.Add(int64(len(batch)))
	a.flow.caller.server.counts.sent.Add(int64(len(batch)))
	if batch = a.flow.talks.up(batch); len(batch) > 0 {
		a.up.put(batch)
	}
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
	a.up.end()
	a.down.end()
	return err
}

// watchedInbox counts what comes.
type watchedInbox struct {
	in    socks.Inbox
	flow  *flow
	queue datagramQueue
}

func newWatchedInbox(in socks.Inbox, f *flow) *watchedInbox {
	return &watchedInbox{in: in, flow: f, queue: datagramQueue{part: f.part, way: shape.Down, pass: in.Deliver}}
}

// Lost passes a loss on, when nothing is being delivered.
func (in *watchedInbox) Lost(l socks.Loss) {
	in.queue.mu.Lock()
	defer in.queue.mu.Unlock()
	in.in.Lost(l)
}

func (in *watchedInbox) Deliver(batch []socks.Datagram) {
	in.flow.came(payload(batch))
	in.flow.received.Add(int64(len(batch)))
	in.flow.caller.server.counts.received.Add(int64(len(batch)))
	if batch = in.flow.talks.down(batch); len(batch) > 0 {
		in.queue.put(batch)
	}
}

// payload is how many bytes datagrams have.
func payload(batch []socks.Datagram) (n int64) {
	for _, d := range batch {
		n += int64(len(d.Payload))
	}
	return n
}
