package wglink

import (
	"context"
	"net"
	"net/netip"
)

// Host carries out what guests do. Its methods are safe for concurrent use. Each
// ctx ends when the guest is removed and when the server stops, and what was
// called with it must return soon after.
type Host interface {
	// Connect carries out a TCP connection that a guest wants, from its call to its
	// end. The guest sees nothing of it before [Call.Accept] or [Call.Refuse]. ctx
	// ends, too, when the guest gives up before, or after 60 s. What Accept has given is
	// reset when Connect returns, unless it was closed.
	Connect(ctx context.Context, c *Call)

	// Associate is called for the first datagram from an inner address and port,
	// which is then sent. It runs where the guest's packets come in: it must not
	// wait, nor call the [Server]. If it fails the guest gets the error's [Reason],
	// if it has one.
	Associate(ctx context.Context, p *Port) (Association, error)

	// Resolve answers a DNS message (RFC 1035) that was sent to the server's inner
	// address. What it gives for UDP is as long as the guest has said that it may
	// be. If it fails, the guest gets SERVFAIL. ctx ends after 10 s.
	Resolve(ctx context.Context, q Query) (answer []byte, err error)

	// Echo returns nil when target has answered an ICMP echo request with that
	// payload. Otherwise the guest gets the error's [Reason], if it has one. ctx ends
	// after 10 s.
	Echo(ctx context.Context, f Flow, payload []byte) error

	// Door serves a connection to the door at the server's inner address. conn is
	// reset when Door returns, unless it was closed.
	Door(ctx context.Context, f Flow, conn Conn)
}

// Flow says who does something, and to whom.
type Flow struct {
	Guest  [32]byte       // its key
	Remote netip.AddrPort // where its latest handshake came from
	Source netip.AddrPort // inner; without a port for an echo
	Target netip.AddrPort // of a [Port], that of its first datagram

	peer *peer // nil in tests
}

// Place is where the guest's latest handshake came from, as of now.
func (f Flow) Place() netip.AddrPort {
	if f.peer == nil {
		return f.Remote
	}
	return f.peer.place()
}

// Query is a DNS message from a guest.
type Query struct {
	Flow
	Message []byte
	TCP     bool
}

// Conn is a TCP connection of a guest. Its directions end one by one. All methods
// are safe for concurrent use. A reset by the guest is never read as io.EOF.
type Conn interface {
	net.Conn

	// CloseWrite ends the direction to the guest.
	CloseWrite() error

	// Reset ends the connection at once. The guest sees a reset. Reset after Close
	// does nothing.
	Reset() error
}

// Association carries datagrams of a guest. Its methods are safe for concurrent
// use.
type Association interface {
	// Send sends a datagram. It never waits, and keeps nothing of payload.
	Send(payload []byte, to netip.AddrPort)

	// Close ends the association. It is called once, must not wait, and must
	// not call the [Server].
	Close()
}

// Reason says why something does not work, in words that IP has for it. It is an
// error so that methods of a [Host] can return it.
type Reason int

// Reasons. The zero Reason is none: the guest is told nothing.
const (
	Refused            Reason = iota + 1 // nobody has that port
	NotAllowed                           // by policy
	NetworkUnreachable                   // there is no way
	HostUnreachable                      // there is nobody
	TooBig                               // for the path; datagrams only
)

// Error is short, and for logs.
func (r Reason) Error() string {
	switch r {
	case Refused:
		return "connection refused"
	case NotAllowed:
		return "not allowed"
	case NetworkUnreachable:
		return "network unreachable"
	case HostUnreachable:
		return "host unreachable"
	case TooBig:
		return "datagram too big"
	}
	return "no reason"
}

// Loss is what a guest is told about a datagram that did not arrive.
type Loss struct {
	To       netip.AddrPort // whom it was for
	Reporter netip.Addr     // who says so; invalid: the server
	Reason   Reason
	MTU      int // of the path, in bytes, if Reason is TooBig
}
