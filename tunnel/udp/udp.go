// Package udp carries UDP associations over a session.
//
// An association lives as long as the stream that it was asked for on. Its datagrams
// are those of the session: nothing makes them wait behind streams, and none is sent again. A
// datagram names its peer by address only until the other end has said that it knows the
// number that stands for the peer from then on; after that a number of one or two bytes
// says it all. What introduces and acknowledges numbers are datagrams, too, so that none waits
// for them.
//
// PROTOCOL.md in the package above says byte by byte what travels, in its section 7.
package udp

import (
	"context"
	"errors"
	"sync"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// Session is what a [Mux] needs of a [tunnel.Session].
type Session interface {
	SendDatagrams(batch []tunnel.Datagram) error
	ReceiveDatagrams(ctx context.Context, into [][]byte) (int, error)
	Fail(why error)
}

// Stream is what an association needs of its [tunnel.Stream].
type Stream interface {
	ID() uint32
	Read(b []byte) (int, error)
	Close() error
}

// batchSize is how many datagrams are looked at together.
const batchSize = 64

// Mux carries the associations of one session. Its methods are safe for concurrent
// use.
type Mux struct {
	session  Session
	sender   sender
	receiver receiver
}

// New gives the Mux of a session, of which nobody else may receive datagrams. Nothing
// happens before Serve.
func New(s Session) *Mux {
	return &Mux{session: s, receiver: receiver{associations: make(map[uint32]*Association)}}
}

// Serve hands over what comes until ctx ends or the session is over, and says why.
// It must be called once.
func (m *Mux) Serve(ctx context.Context) error {
	var packets [batchSize][]byte
	var in inbound
	for {
		n, err := m.session.ReceiveDatagrams(ctx, packets[:])
		if err != nil {
			return err
		}
		if err := m.take(&in, packets[:n]); err != nil {
			m.session.Fail(err)
			return err
		}
	}
}

// Association is one end of an association. It is a [socks.Inbox] for what goes to
// the other end; what comes from there goes to the Inbox of Open. Its methods are safe for
// concurrent use.
type Association struct {
	mux    *Mux
	stream Stream
	id     uint32
	peers  map[socks.Addr]*peer // that have numbers; under the sender's mu
	over   bool                 // under the sender's mu

	delivering sync.Mutex // held while in is called
	in         socks.Inbox
}

// Associate gives an association for a stream, which is its own from now on. It can
// send at once, and receives after Open. It must be closed.
func (m *Mux) Associate(s Stream) *Association {
	return &Association{mux: m, stream: s, id: associationID(s), peers: make(map[socks.Addr]*peer)}
}

// associationID is how datagrams name the association of a stream. All streams that carry
// one have been opened by the same end.
func associationID(s Stream) uint32 { return s.ID() >> 1 & tunnel.MaxDatagramFlow }

var errTwice = errors.New("a stream has one association")

// Open lets in get what comes, until Close.
func (a *Association) Open(in socks.Inbox) error {
	a.delivering.Lock()
	a.in = in
	a.delivering.Unlock()
	return a.mux.receiver.enter(a)
}

// Wait waits until the other end ends the association, its session is lost, or Close
// is called. Neither end has anything to say on the stream.
func (a *Association) Wait() {
	_, _ = a.stream.Read(make([]byte, 1))
}

// Close ends the association and tells the other end. The Inbox gets nothing more when
// it returns, and must not call it.
func (a *Association) Close() error {
	a.mux.receiver.leave(a)
	a.mux.sender.leave(a)
	a.delivering.Lock()
	a.in = nil
	a.delivering.Unlock()
	return a.stream.Close()
}

// deliver hands datagrams to the Inbox.
func (a *Association) deliver(batch []socks.Datagram) {
	a.delivering.Lock()
	defer a.delivering.Unlock()
	if a.in != nil {
		a.in.Deliver(batch)
	}
}

// lose hands a loss to the Inbox.
func (a *Association) lose(l socks.Loss) {
	a.delivering.Lock()
	defer a.delivering.Unlock()
	if a.in != nil {
		a.in.Lost(l)
	}
}

// Deliver sends datagrams to the other end, each with its peer's address. It never
// waits, and keeps nothing of batch. Any may be lost.
func (a *Association) Deliver(batch []socks.Datagram) {
	for len(batch) > 0 {
		n := min(len(batch), batchSize)
		a.mux.sender.send(a, batch[:n])
		batch = batch[n:]
	}
}

// Lost tells the other end that a datagram did not arrive, if it can.
func (a *Association) Lost(l socks.Loss) {
	head := appendLost(nil, a.id, l)
	_ = a.mux.session.SendDatagrams([]tunnel.Datagram{{Head: head}}) // a datagram may be lost
}
