package ipseclink

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

const (
	// maxAccompanied is how many connections may have datagrams beside them: each has a
	// socket for that, and the kernel may have to look for it among all. Those of the
	// others go among their bytes.
	maxAccompanied = 1024

	// stopTimeout is how long those that have been may take to end by themselves when
	// the server stops.
	stopTimeout = 5 * time.Second
)

// Arrival is an opening that has come in on a new carrier and is not judged yet.
type Arrival struct {
	Opening       []byte   // OpeningSize bytes
	Server        [32]byte // what [Carrier.Server] gives to the device
	Channel       [32]byte // what [Carrier.Channel] gives to the device
	Local, Remote netip.AddrPort
}

// Admit judges an arrival. It is called concurrently, and anybody may have sent the opening.
//
// If answer is nil the opening is not genuine, and the connection is closed. Otherwise the
// answer, of [AnswerSize] bytes, is sent, and serve runs in the connection's goroutine. The
// connection is closed when serve returns, which must be soon after its ctx ends. A nil
// serve closes the connection at once. A carrier may fail just after it was admitted.
// Then serve is not called.
type Admit func(ctx context.Context, a Arrival) (answer []byte, serve func(ctx context.Context, conn net.Conn))

// Server takes carriers. Key is needed.
type Server struct {
	Key       *keys.Server
	Datagrams Protect        // has datagrams go beside carriers; nil: they go among their bytes
	Tune      func(net.Conn) // sets up a TCP connection; nil: it stays as it is
	Log       *slog.Logger   // nil: nothing is logged
}

// Serve takes carriers at a listener, which brings connections by protected paths only and
// which it closes, until ctx ends. It then closes what has not been admitted, gives the
// others 5 s to end, and returns nil when all has ended. If somebody else closes ln, it
// goes on with those there are until ctx ends.
func (s *Server) Serve(ctx context.Context, ln net.Listener, admit Admit) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	x := &exchange{server: s, admit: admit, log: log, strangers: newLobby(), accompanied: make(chan struct{}, maxAccompanied)}
	defer x.conns.Wait()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // whoever accepts sees the error
	defer stop()
	const shortest, longest = 5 * time.Millisecond, time.Second
	for delay := shortest; ; {
		conn, err := ln.Accept()
		short, _ := errors.AsType[temporary](err)
		switch {
		case err == nil:
			delay = shortest
			x.enter(ctx, conn)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			<-ctx.Done()
			return nil
		case short != nil && short.Temporary():
			log.Warn("cannot accept carriers over IPsec for now", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
			delay = min(2*delay, longest)
		default:
			return fmt.Errorf("accept carriers over IPsec: %w", err)
		}
	}
}

// temporary is an error that waiting may help against: the machine is short of something.
type temporary interface {
	error
	Temporary() bool
}

// exchange is one run of [Server.Serve].
type exchange struct {
	server      *Server
	admit       Admit
	log         *slog.Logger
	strangers   *lobby
	accompanied chan struct{} // holds an item for each connection with datagrams beside it
	conns       sync.WaitGroup
}

func (x *exchange) enter(ctx context.Context, conn net.Conn) {
	leave := x.strangers.enter(conn)
	x.conns.Go(func() {
		defer conn.Close()
		if err := x.attend(ctx, conn, leave); err != nil {
			x.log.Debug("carrier failed while it opened", "remote", conn.RemoteAddr(), "error", err)
		}
	})
}

// attend sees a connection from its first byte to its end. It says when the other end is
// no stranger any more.
func (x *exchange) attend(ctx context.Context, conn net.Conn, known func()) error {
	a, err := x.open(ctx, conn)
	known()
	if err != nil || a.answer == nil {
		return err
	}
	if a.serve != nil {
		var stop func()
		conn, stop = x.accompany(ctx, quicken(conn, nil), a)
		defer stop()
	}
	if _, err := conn.Write(a.answer); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if a.serve == nil {
		return nil
	}
	served := make(chan struct{})
	defer close(served)
	defer context.AfterFunc(ctx, func() {
		select {
		case <-served:
		case <-time.After(stopTimeout):
			_ = conn.Close()
		}
	})()
	a.serve(ctx, conn)
	return nil
}

// accompany has datagrams go beside a connection, if they can. It does so before the other
// end may send any.
func (x *exchange) accompany(ctx context.Context, conn *conn, a arrived) (with net.Conn, stop func()) {
	none := func() {}
	if x.server.Datagrams == nil {
		return conn, none
	}
	select {
	case x.accompanied <- struct{}{}:
	default:
		return conn, none
	}
	keys, err := agree(a.nonces, a.private, a.nonces.client)
	var beside *companion
	if err == nil {
		beside, err = accompany(ctx, conn, x.server.Datagrams, keys.toClient, keys.toServer)
	}
	if err != nil {
		<-x.accompanied
		x.log.Debug("datagrams go among the bytes of a carrier", "remote", conn.RemoteAddr(), "reason", err)
		return conn, none
	}
	return accompanied{conn, beside}, func() { beside.close(); <-x.accompanied }
}

// arrived is a connection whose opening has been judged.
type arrived struct {
	nonces  nonces
	private *ecdh.PrivateKey // of the server's
	answer  []byte
	serve   func(context.Context, net.Conn)
}

// open shows who the server is, and has the other end's opening judged.
func (x *exchange) open(ctx context.Context, conn net.Conn) (a arrived, err error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return a, err
	}
	defer interrupt(ctx, conn)()
	if x.server.Tune != nil {
		x.server.Tune(conn)
	}
	call := make([]byte, callSize)
	if _, err := io.ReadFull(conn, call); err != nil {
		return a, err
	}
	if string(call[:len(magic)]) != magic {
		return a, errForeign
	}
	n := &a.nonces
	n.client = [nonceSize]byte(call[len(magic):])
	if a.private, n.server, err = newNonce(); err != nil {
		return a, err
	}
	b, err := show(*n, x.server.Key)
	if err != nil {
		return a, err
	}
	if _, err := conn.Write(b); err != nil {
		return a, err
	}
	opening := make([]byte, OpeningSize)
	if _, err := io.ReadFull(conn, opening); err != nil {
		return a, err
	}
	a.answer, a.serve = x.admit(ctx, Arrival{
		Opening: opening, Server: x.server.Key.Pin(), Channel: n.under(carrierLabel),
		Local: addrPort(conn.LocalAddr()), Remote: addrPort(conn.RemoteAddr()),
	})
	return a, nil
}
