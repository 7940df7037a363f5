package ipseclink

import (
	"context"
	"crypto/rand"
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
	// maxStrangers is how many connections there may be that have not been admitted.
	maxStrangers = 256

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
	Key  *keys.Server
	Tune func(net.Conn) // sets up a TCP connection; nil: it stays as it is
	Log  *slog.Logger   // nil: nothing is logged
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
	x := &exchange{server: s, admit: admit, log: log, strangers: make(chan struct{}, maxStrangers)}
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
	server    *Server
	admit     Admit
	log       *slog.Logger
	strangers chan struct{} // holds an item for each that has not been admitted
	conns     sync.WaitGroup
}

func (x *exchange) enter(ctx context.Context, conn net.Conn) {
	select {
	case x.strangers <- struct{}{}:
	default:
		_ = conn.Close() // there are too many
		return
	}
	x.conns.Go(func() {
		defer conn.Close()
		if err := x.attend(ctx, conn); err != nil {
			x.log.Debug("carrier failed while it opened", "remote", conn.RemoteAddr(), "error", err)
		}
	})
}

// attend sees a connection from its first byte to its end.
func (x *exchange) attend(ctx context.Context, conn net.Conn) error {
	answer, serve, err := x.open(ctx, conn)
	<-x.strangers
	if err != nil || answer == nil {
		return err
	}
	if _, err := conn.Write(answer); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if serve == nil {
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
	serve(ctx, conn)
	return nil
}

// open shows who the server is, and has the other end's opening judged.
func (x *exchange) open(ctx context.Context, conn net.Conn) (answer []byte, serve func(context.Context, net.Conn), err error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, nil, err
	}
	defer interrupt(ctx, conn)()
	if x.server.Tune != nil {
		x.server.Tune(conn)
	}
	call := make([]byte, callSize)
	if _, err := io.ReadFull(conn, call); err != nil {
		return nil, nil, err
	}
	if string(call[:len(magic)]) != magic {
		return nil, nil, errForeign
	}
	n := nonces{client: [nonceSize]byte(call[len(magic):])}
	rand.Read(n.server[:]) // never fails
	b, err := show(n, x.server.Key)
	if err != nil {
		return nil, nil, err
	}
	if _, err := conn.Write(b); err != nil {
		return nil, nil, err
	}
	opening := make([]byte, OpeningSize)
	if _, err := io.ReadFull(conn, opening); err != nil {
		return nil, nil, err
	}
	answer, serve = x.admit(ctx, Arrival{
		Opening: opening, Server: x.server.Key.Pin(), Channel: n.under(carrierLabel),
		Local: addrPort(conn.LocalAddr()), Remote: addrPort(conn.RemoteAddr()),
	})
	return answer, serve, nil
}
