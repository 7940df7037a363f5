// Package socks speaks the SOCKS family and HTTP CONNECT: it reads requests
// from apps at a [Door], asks a [Relay] to carry them out, and answers in the
// app's own dialect. SOCKS 6, which travels inside the tunnel, is here too.
//
// SOCKS 5 is RFC 1928, RFC 1929 and RFC 1961, SOCKS 6 is draft-olteanu-intarea-socks-6,
// HTTP CONNECT is RFC 9110 section 9.3.6.
//
// With [Door.EarlyReply] apps are told that they are connected while the Relay is still
// asked, and what they say first is in [Request.Initial].
//
// Kerberos tickets let apps of SOCKS 5 in alone. RFC 1961 protects all that comes after
// a method is chosen; SOCKS 6 has its request and early data before that, and its draft
// does not say what then is protected, and how. A door refuses the method there.
package socks

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/adit-net/adit/tunnel/relay"
)

// Relay carries out the requests that apps make. The client's asks the server
// through a session; the server's opens real sockets.
//
// A Relay is safe for concurrent use.
type Relay interface {
	// Connect opens a connection to r.Dst. It gives up when ctx ends; ctx does
	// not bound the connection's life afterwards, which is the caller's, who
	// closes it. On failure the error's [CodeOf] is what the app is told.
	Connect(ctx context.Context, r Request) (relay.Conn, Reply, error)

	// Bind opens a port at the exit for connections from the host of r.Dst, or from
	// anybody if that is the unspecified address or none. Only then its port counts:
	// it is the one to open, if that can be had. The reply, which is
	// the first of two, has the port's address. As with Connect, ctx bounds the opening
	// only, and on failure the error's code is what the app is told.
	Bind(ctx context.Context, r Request) (Binding, Reply, error)

	// Associate opens a port at the exit for datagrams. The reply has its address,
	// and in gets what comes back. In SOCKS 6 the port of r.Dst is the one to open, if
	// it is kept for the user (see [ParityReserve6]). In other dialects r.Dst is where
	// the app says that it will send from, which is nothing that the exit can use. ctx
	// bounds the opening only.
	Associate(ctx context.Context, r Request, in Inbox) (Association, Reply, error)
}

// Binding is a port at the exit that waits for connections. Its methods are safe
// for concurrent use.
type Binding interface {
	// Accept waits for the next connection from a peer that the request allows; the
	// first one is the only one unless the reply grants a backlog. When ctx ends it
	// gives up, and can be called again.
	// The reply, which is the second of two, has the peer's address. The error's code is
	// TimedOut if the port was open for as long as it may be, and no peer has come.
	Accept(ctx context.Context) (relay.Conn, Reply, error)

	// Close closes the port. Connections that Accept has given go on.
	Close() error
}

// Association is a port at the exit through which datagrams come and go. Its
// methods are safe for concurrent use.
type Association interface {
	// Send sends datagrams, each to its address. It never waits, and keeps nothing of
	// batch. Any of them may be lost; what is not allowed is.
	Send(batch []Datagram)

	// Done is closed when the association is over, and Close is called or not.
	Done() <-chan struct{}

	// Close ends the association, and returns when its [Inbox] gets nothing more.
	Close() error
}

// Inbox takes what comes back to an [Association]. Its methods are not called
// concurrently, must not wait, and keep nothing of what they are given.
type Inbox interface {
	// Deliver brings datagrams, each with the address that it comes from.
	Deliver(batch []Datagram)

	// Lost tells that a datagram did not arrive. Few who lose one say so.
	Lost(l Loss)
}

// Datagram is one message between an app and a peer.
type Datagram struct {
	Addr    Addr // the peer's
	Payload []byte
}

// Loss is what an ICMP message says about a datagram.
type Loss struct {
	To       netip.AddrPort // whom it was for
	Reporter netip.Addr     // who says so; invalid if that is not known

	// Code is NetworkUnreachable, HostUnreachable, TTLExpired, NotAllowed, or
	// ConnectionRefused: nobody has that port. It is GeneralFailure if the datagram
	// was too big.
	Code Code
	MTU  int // of the path, in bytes, if the datagram was too big
}

// Unserved is a [Relay] that serves nothing. A type that embeds it serves the commands
// that it has methods for.
type Unserved struct{}

// Connect fails with [CommandNotSupported].
func (Unserved) Connect(context.Context, Request) (relay.Conn, Reply, error) {
	return nil, Reply{Code: CommandNotSupported}, CommandNotSupported
}

// Bind fails with [CommandNotSupported].
func (Unserved) Bind(context.Context, Request) (Binding, Reply, error) {
	return nil, Reply{Code: CommandNotSupported}, CommandNotSupported
}

// Associate fails with [CommandNotSupported].
func (Unserved) Associate(context.Context, Request, Inbox) (Association, Reply, error) {
	return nil, Reply{Code: CommandNotSupported}, CommandNotSupported
}

// Request is what an app asked for, whatever its dialect.
type Request struct {
	Command Command
	Dst     Addr
	Dialect Dialect
	User    string         // who the app has proved to be at the door; empty where the door asks nobody
	Source  netip.AddrPort // where the app's own connection comes from

	// Initial is what the app has said to the target already, at most [MaxInitialData6]
	// bytes. They go there first of all, as soon as there is a connection.
	Initial []byte

	// Stack is what the app asks of the protocols on the way to the target. It is a
	// wish: see [Reply].
	Stack []StackOption6

	// Permit, if it is set, tells why nothing may go to an address, or come from it; nil
	// if it may. Whoever has sockets asks it for each of them, and for each datagram, as
	// often as he likes. The name is the one that was asked for, or "". As long as
	// its address is not known, at has none. It is safe for concurrent use and does not
	// wait.
	Permit func(name string, at netip.AddrPort) error

	// Filter, if it is set, says by which filtering an association takes the datagrams that
	// an address sends it, in the words of RFC 4787 section 5; "" leaves it to whoever has
	// sockets. It is asked as Permit is.
	Filter func(name string, at netip.AddrPort) string
}

// Permits is Permit, or nil where that is not set.
func (r Request) Permits(name string, at netip.AddrPort) error {
	if r.Permit == nil {
		return nil
	}
	return r.Permit(name, at)
}

// Backlog is how many connections a BIND lets wait to be accepted. 0: there is one
// only, and then the port closes.
func (r Request) Backlog() int { return backlog(r.Stack) }

// Reply is the answer to a [Request].
type Reply struct {
	Code  Code
	Bound netip.AddrPort // the address at the exit; zero where it is not known
	Stack []StackOption6 // what was really done of [Request.Stack]; what is missing was not
}

// Backlog is what was granted of the request's.
func (r Reply) Backlog() int { return backlog(r.Stack) }

func backlog(options []StackOption6) int {
	n, _ := FindStack6(options, StackBacklog6)
	return int(n)
}

// Command is a SOCKS command, by its number in SOCKS 5 and 6.
type Command byte

// The commands of RFC 1928 section 4 and of SOCKS 6, which adds Noop.
const (
	Noop      Command = 0
	Connect   Command = 1
	Bind      Command = 2
	Associate Command = 3
)

// Dialect is the protocol in which an app made its request.
type Dialect byte

// What a door understands. The first and the last belong to requests that no app made
// at a door: those of a Go program that embeds the client, and of a device whose packets
// come by WireGuard.
const (
	Direct Dialect = iota
	SOCKS4
	SOCKS4a
	SOCKS5
	SOCKS6
	HTTPConnect
	HTTPForward
	WireGuard
)

func (d Dialect) String() string {
	switch d {
	case Direct:
		return "direct"
	case SOCKS4:
		return "SOCKS 4"
	case SOCKS4a:
		return "SOCKS 4a"
	case SOCKS5:
		return "SOCKS 5"
	case SOCKS6:
		return "SOCKS 6"
	case HTTPConnect:
		return "HTTP CONNECT"
	case HTTPForward:
		return "HTTP"
	case WireGuard:
		return "WireGuard"
	}
	return fmt.Sprintf("dialect %d", byte(d))
}

// Code says how a request ended, by its number in SOCKS 5 and 6.
type Code byte

// The reply codes of RFC 1928 section 6, and TimedOut of SOCKS 6.
const (
	Succeeded           Code = 0
	GeneralFailure      Code = 1
	NotAllowed          Code = 2
	NetworkUnreachable  Code = 3
	HostUnreachable     Code = 4
	ConnectionRefused   Code = 5
	TTLExpired          Code = 6
	CommandNotSupported Code = 7
	AddressNotSupported Code = 8
	TimedOut            Code = 9
)
