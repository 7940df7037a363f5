package tlslink

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

// defaultTimeout bounds a handshake where nothing else is set.
const defaultTimeout = 10 * time.Second

// ErrWrongPin says that the server has another key than the pinned one. Either
// it has a new key, or somebody stands in between.
var ErrWrongPin = errors.New("the server's key is not the pinned one")

// Dialer opens carriers to one server. It must know the server by exactly one
// of Pin and UseCA. A Dialer is safe for concurrent use while its fields stay
// as they are. It remembers where it has found the server, and so it is worth keeping.
type Dialer struct {
	Address    string // host:port
	ServerName string // the name in the TLS handshake; empty: Address's host

	// Pin is the hash of the server's key. It says everything about the server:
	// names and dates in its certificate do not count then.
	Pin keys.Pin
	// UseCA trusts a certificate for ServerName that RootCAs vouch for.
	UseCA   bool
	RootCAs *x509.CertPool // nil: the system's

	// Fingerprint says whose ClientHello to imitate: chrome (also when empty),
	// firefox, safari, random, or go, which is crypto/tls as it is. What
	// imitates a browser is a fork of crypto/tls that lags behind it.
	Fingerprint string

	// Resolver finds the addresses of Address's host; nil: [net.DefaultResolver].
	Resolver Resolver

	// Multipath asks for Multipath TCP (RFC 8684), which outlives the loss of
	// one of several interfaces. Where this host, the server or the network
	// does not know it the connection is plain TCP.
	Multipath bool

	// Control, if it is set, is called before a TCP connection to an address is begun, as
	// [net.Dialer].ControlContext. Its error keeps it from being begun.
	Control func(ctx context.Context, network, address string, c syscall.RawConn) error

	// DialTCP opens the connection below TLS to Address in a way of its own,
	// and Resolver, Multipath and Control do not count; nil: as Dial says.
	DialTCP func(ctx context.Context, network, address string) (net.Conn, error)

	// HandshakeTimeout bounds Dial and Attach, each; zero: 10 s.
	HandshakeTimeout time.Duration

	mu    sync.Mutex   // guards what follows
	known []netip.Addr // where the server has been, the last place first; at most maxTargets
	doubt bool         // somebody else has answered there since
}

// Dial connects and does the TLS handshake. When it returns, the server has
// proved who it is, and has seen nothing of who the client is.
//
// It tries every address of the host, IPv6 and IPv4, at most 16 attempts in
// all, the next after 250 ms or when one has failed (RFC 8305). The first TCP
// connection is used. The addresses found when Dial has last succeeded are
// tried too, if the host cannot be resolved or that takes longer than 300 ms.
func (d *Dialer) Dial(ctx context.Context) (*Carrier, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", d.Address, err)
	}
	return c, nil
}

func (d *Dialer) dial(ctx context.Context) (*Carrier, error) {
	name, err := d.check()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout())
	defer cancel()
	tcp, settle, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: tcp, vigil: newVigil(tcp)}
	c, err := d.handshake(ctx, w, name)
	settle(err == nil)
	if err != nil {
		// The connection may be closed already; nobody has used it.
		_ = w.Close()
		return nil, err
	}
	return c, nil
}

// connect opens the connection below TLS. settle must be called when it is
// known whether the server is at the other end.
func (d *Dialer) connect(ctx context.Context) (conn net.Conn, settle func(found bool), err error) {
	if d.DialTCP != nil {
		conn, err := d.DialTCP(ctx, "tcp", d.Address)
		return conn, func(bool) {}, err
	}
	host, service, err := net.SplitHostPort(d.Address)
	if err != nil {
		return nil, nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, nil, err
	}
	s := d.search(host)
	r, err := s.connect(ctx, func(ctx context.Context, t target) (net.Conn, error) {
		dialer := net.Dialer{ControlContext: d.Control}
		dialer.SetMultipathTCP(d.Multipath && !t.plain)
		return dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(t.addr, uint16(port)).String())
	})
	return r.conn, func(found bool) { d.settle(s, r.to.addr, found) }, err
}

// search makes a search for a host that knows what former ones have found.
func (d *Dialer) search(host string) *search {
	s := &search{resolver: d.Resolver, host: host, again: d.Multipath, patience: headStart}
	if a, err := netip.ParseAddr(host); err == nil {
		s.resolver = literal(a)
	} else if s.resolver == nil {
		s.resolver = net.DefaultResolver
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.known = d.known
	if d.doubt {
		s.patience = doubtful
	}
	return s
}

// settle remembers what a search has found, if the server was at an address.
// If it was not, and nobody but the memory has said so, look-ups get more time.
func (d *Dialer) settle(s *search, at netip.Addr, found bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case found:
		d.known, d.doubt = s.learnt(at), false
	case !slices.Contains(s.found, at):
		d.doubt = true
	}
}

// check tells what is wrong with the fields, and the name to use in the handshake.
func (d *Dialer) check() (name string, err error) {
	host, _, err := net.SplitHostPort(d.Address)
	switch {
	case err != nil:
		return "", err
	case d.Pin.IsZero() && !d.UseCA:
		return "", errors.New("neither a pin nor a CA says how to know the server")
	case !d.Pin.IsZero() && d.UseCA:
		return "", errors.New("both a pin and a CA say how to know the server; want one")
	case d.RootCAs != nil && !d.UseCA:
		return "", errors.New("root certificates are set, but they are not used")
	}
	if d.ServerName != "" {
		return d.ServerName, nil
	}
	return host, nil
}

func (d *Dialer) timeout() time.Duration {
	if d.HandshakeTimeout > 0 {
		return d.HandshakeTimeout
	}
	return defaultTimeout
}

// handshake does the TLS handshake on w and makes sure that its result can
// carry a session.
func (d *Dialer) handshake(ctx context.Context, w *wire, name string) (*Carrier, error) {
	Tune(w.Conn)
	c, err := d.client(w, name)
	if err != nil {
		return nil, err
	}
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	facts := c.facts()
	if !facts.tls13 {
		return nil, errors.New("the server does not speak TLS 1.3")
	}
	if facts.protocol != "h2" {
		return nil, errors.New("the server does not speak HTTP/2")
	}
	server := keys.PinOf(facts.peer)
	if !d.UseCA && server != d.Pin { // once more, whatever the TLS library did
		return nil, ErrWrongPin
	}
	channel, err := facts.export(ExporterLabel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("export keying material: %w", err)
	}
	return &Carrier{
		conn:       newConn(c, w),
		timeout:    d.timeout(),
		server:     server,
		channel:    [32]byte(channel),
		protection: facts.Protection,
	}, nil
}

// verifyPin accepts whatever certificate has the pinned key. That the server
// holds the key is proved by its signature in the handshake.
func (d *Dialer) verifyPin(raw [][]byte, _ [][]*x509.Certificate) error {
	if len(raw) == 0 {
		return errors.New("the server has no certificate")
	}
	cert, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return err
	}
	if keys.PinOf(cert) != d.Pin {
		return ErrWrongPin
	}
	return nil
}

// Carrier is a TLS connection to a server that has proved who it is. It
// becomes a session's carrier by [Carrier.Attach].
type Carrier struct {
	conn       net.Conn
	timeout    time.Duration
	server     keys.Pin
	channel    [32]byte
	protection Protection
}

// Server gives the hash of the server's key.
func (c *Carrier) Server() [32]byte { return c.server }

// Channel gives the exporter value for [ExporterLabel], which this TLS
// connection alone has.
func (c *Carrier) Channel() [32]byte { return c.channel }

// Protection says what keeps the carrier's bytes secret.
func (c *Carrier) Protection() Protection { return c.protection }

// Close closes the carrier. Closing what Attach has given does the same.
func (c *Carrier) Close() error { return c.conn.Close() }

// Attach sends an opening of [OpeningSize] bytes and reads the server's answer
// of [AnswerSize] bytes. It is called once. The error is [ErrWebsite] if the
// server does not take the opening. On any error the carrier is closed.
//
// Methods of conn are safe for concurrent use. Read gives io.EOF only when the
// peer has closed conn, not when the connection was cut. A Write that fails
// with a time-out has taken the n bytes that it reports; those not sent yet go
// first with the next Write. Close waits at most 250 ms for a peer that does not read.
func (c *Carrier) Attach(ctx context.Context, opening []byte) (conn net.Conn, answer []byte, err error) {
	answer, err = c.attach(ctx, opening)
	if err != nil {
		_ = c.conn.Close() // the first error says more
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
	release := interrupt(ctx, c.conn)
	_, err := c.conn.Write(flight(opening))
	var answer []byte
	if err == nil {
		answer, err = readAnswer(c.conn)
	}
	if release(); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return answer, c.conn.SetDeadline(time.Time{})
}

// interrupt makes Read and Write fail from when ctx ends until release is
// called. release waits, so that nothing touches the deadline after it.
func interrupt(ctx context.Context, c net.Conn) (release func()) {
	var running sync.WaitGroup
	running.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer running.Done()
		// An error means that the connection is closed, which is as good.
		_ = c.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			running.Wait()
		}
	}
}
