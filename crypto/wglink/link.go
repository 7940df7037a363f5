package wglink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// link is what the carriers to one server share: a UDP socket, WireGuard, a
// TCP/IP stack.
type link struct {
	*engine
	dialer *Dialer
	server [32]byte
	local  netip.Addr
	gauge  *gauge
	users  int    // guarded by dialer.mu
	stop   func() // ends the survey, and waits
}

// seek begins a handshake with the server at any of the places. It gives what
// lastAnswer has said before. Carriers that are open go on meanwhile, as
// WireGuard keeps the old keys.
func (l *link) seek(places []netip.AddrPort) (before string, err error) {
	l.socket.aim.Store(&remotes{all: places})
	if err := l.setPeer(l.server, []netip.Addr{serverAddress(l.server)}, serverEndpoint); err != nil {
		return "", fmt.Errorf("set up wireguard: %w", err)
	}
	// All IPv4 on the link is frames. Where WireGuard looks for the server's address
	// they have some of a datagram.
	if err := l.allow(l.server, netip.PrefixFrom(netip.IPv4Unspecified(), 0)); err != nil {
		return "", fmt.Errorf("set up wireguard: %w", err)
	}
	before = l.lastAnswer()
	l.shakeHands()
	return before, nil
}

// shakeHands begins a handshake, unless one has begun within the last 5 s.
func (l *link) shakeHands() {
	if peer := l.device.LookupPeer(l.server); peer != nil {
		// An error means that it could not be sent now, and it is tried again.
		_ = peer.SendHandshakeInitiation(false)
	}
}

// lastAnswer tells when the last handshake was done, as WireGuard says it.
func (l *link) lastAnswer() string {
	state, err := l.device.IpcGet()
	if err != nil {
		return ""
	}
	_, when, _ := strings.Cut(state, "last_handshake_time_sec=")
	when, _, _ = strings.Cut(when, "tx_bytes")
	return when
}

// place is where WireGuard sends to now; invalid as long as nobody has answered.
func (l *link) place() netip.AddrPort {
	state, err := l.device.IpcGet()
	if err != nil {
		return netip.AddrPort{}
	}
	_, at, _ := strings.Cut(state, "\nendpoint=")
	at, _, _ = strings.Cut(at, "\n")
	place, err := netip.ParseAddrPort(at)
	if err != nil {
		return netip.AddrPort{} // it is one of many
	}
	return place
}

// insist begins handshakes until one is answered after before, or ctx ends.
func (l *link) insist(ctx context.Context, before string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		if l.lastAnswer() != before {
			return
		}
		if peer := l.device.LookupPeer(l.server); peer != nil {
			peer.ExpireCurrentKeypairs() // or it would wait for 5 s
		}
		l.shakeHands()
	}
}

// dial opens a carrier. alone says that there is no other on this link.
func (l *link) dial(ctx context.Context, before string, alone bool) (*Carrier, error) {
	dialing, cancel := context.WithCancel(ctx)
	var insisting sync.WaitGroup
	if alone {
		insisting.Go(func() { l.insist(dialing, before) })
	}
	c, err := connect(dialing, l.stack, l.local, netip.AddrPortFrom(serverAddress(l.server), carrierPort))
	cancel()
	insisting.Wait()
	if err != nil {
		if ctx.Err() != nil && l.lastAnswer() == before {
			return nil, l.dialer.silence()
		}
		return nil, err
	}
	l.dialer.heard()
	l.survey.hint()
	var nonce [nonceSize]byte
	if err := within(ctx, c, func() error {
		_, err := io.ReadFull(c, nonce[:])
		return err
	}); err != nil {
		c.abort()
		return nil, fmt.Errorf("read the server's nonce: %w", err)
	}
	conn := newDatagramConn(c, l.cable, l.gauge)
	if !conn.enter(tagOf(nonce)) {
		c.abort()
		return nil, errors.New("the server's nonce is that of another carrier")
	}
	c.onClose = func() {
		conn.leave()
		l.dialer.left() // handshakes have gone on meanwhile
		l.dialer.release(l)
	}
	return &Carrier{
		conn:    conn,
		timeout: l.dialer.timeout(),
		server:  serverID(l.server),
		channel: channelID(l.server, l.dialer.Key.Public(), nonce[:]),
	}, nil
}

// Carrier is a connection through WireGuard to a server that has proved who it
// is. It becomes a session's carrier by [Carrier.Attach].
type Carrier struct {
	conn    *datagramConn
	timeout time.Duration
	server  [32]byte
	channel [32]byte
}

// Server names the server by its WireGuard key: the SHA-256 of the key's
// SubjectPublicKeyInfo (RFC 8410).
func (c *Carrier) Server() [32]byte { return c.server }

// Channel names this very carrier: a hash over both keys and a nonce that the
// server has made for it.
func (c *Carrier) Channel() [32]byte { return c.channel }

// Protection says what keeps the carrier's bytes secret.
func (c *Carrier) Protection() Protection { return protection() }

// Close closes the carrier. Closing what Attach has given does the same.
func (c *Carrier) Close() error { return c.conn.Close() }

// Attach sends an opening of [OpeningSize] bytes and reads the server's answer
// of [AnswerSize] bytes. It is called once. The error is [ErrNotTaken] if the
// server does not take the opening. On any error the carrier is closed.
//
// Methods of conn are safe for concurrent use. Read gives io.EOF only when the
// peer has closed conn, not when the connection was cut. A Write that fails
// with a time-out has sent the n bytes that it reports. Close waits at most
// 250 ms for the peer.
func (c *Carrier) Attach(ctx context.Context, opening []byte) (conn DatagramConn, answer []byte, err error) {
	answer, err = c.attach(ctx, opening)
	if err != nil {
		c.conn.abort()
		return nil, nil, fmt.Errorf("attach: %w", err)
	}
	return c.conn, answer, nil
}

func (c *Carrier) attach(ctx context.Context, opening []byte) ([]byte, error) {
	if len(opening) != OpeningSize {
		return nil, fmt.Errorf("the opening has %d bytes, want %d", len(opening), OpeningSize)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	answer := make([]byte, AnswerSize)
	err := within(ctx, c.conn.tcpConn, func() error {
		if _, err := c.conn.Write(opening); err != nil {
			return err
		}
		if _, err := io.ReadFull(c.conn, answer); err != nil {
			return fmt.Errorf("%w: %w", ErrNotTaken, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// within makes what reads and writes fail when ctx ends. After it nothing
// touches the deadline.
func within(ctx context.Context, c *tcpConn, do func() error) error {
	var running sync.WaitGroup
	running.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer running.Done()
		_ = c.SetDeadline(time.Unix(1, 0)) // it has no error
	})
	err := do()
	if !stop() {
		running.Wait()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
