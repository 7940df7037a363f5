package ipsec

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// ErrUnprotected is in the errors of what demands protection and has none.
var ErrUnprotected = errors.New("IPsec does not protect the path")

// Control is for [net.Dialer].ControlContext, for TCP, and has a socket connect by a protected path
// only: it is tied to what protects it, before it sends anything. From then on the
// kernel lets nothing out and nothing in by any other way, also when the association is
// gone: what is written waits for its return. Where protection is only stated, there
// is nothing to tie to.
func (d *Detector) Control(ctx context.Context, _, address string, c syscall.RawConn) error {
	remote, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("see what protects the path: %w", err)
	}
	p, err := d.Look(ctx, Path{Remote: remote, Mark: markOf(c)})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnprotected, err)
	}
	if err := p.tie(c); err != nil {
		return err
	}
	p.fit(c, remote.Addr())
	return nil
}

// Tie has a socket for UDP, of remote's version of IP alone, talk by the protected path to remote only, as
// Control does for TCP.
func (d *Detector) Tie(ctx context.Context, c syscall.RawConn, remote netip.AddrPort) error {
	p, err := d.Look(ctx, Path{Remote: remote, UDP: true, Mark: markOf(c)})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnprotected, err)
	}
	return p.tie(c)
}

// Fit is for [net.Dialer].ControlContext, too. It demands nothing, and has a connection's segments
// fit into what protects the path, if anything does.
func (d *Detector) Fit(ctx context.Context, _, address string, c syscall.RawConn) error {
	remote, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil // it is for whoever connects to complain
	}
	if p, err := d.Look(ctx, Path{Remote: remote, Mark: markOf(c)}); err == nil {
		p.fit(c, remote.Addr())
	}
	return nil
}

// fit has both ends of a TCP connection that is about to begin send no larger packets than
// fit. What is larger would be cut in pieces, or vanish.
func (p Protection) fit(c syscall.RawConn, remote netip.Addr) {
	headers := 20 + 20 // of IPv4 and TCP
	if remote.Unmap().Is6() {
		headers += 20
	}
	if p.MTU > headers {
		// Without it TCP finds out by itself, if the path lets it.
		_ = c.Control(func(fd uintptr) { _ = setSegment(fd, p.MTU-headers) })
	}
}

// tie ties a socket to what protects its path.
func (p Protection) tie(c syscall.RawConn) error {
	switch p.Mechanism {
	case None:
		return fmt.Errorf("%w: %s", ErrUnprotected, p.Reason)
	case Stated:
		return nil
	}
	if err := p.hold.tie(c); err != nil {
		return fmt.Errorf("tie a socket to what protects it: %w", err)
	}
	return nil
}

// Look says what protects a path, as was seen last.
func (s *Paths) Look(ctx context.Context, p Path) Protection {
	f := s.Follow(ctx, p, nil)
	defer f.Stop()
	return f.Protection()
}

// Tie has a socket use a path only as it is protected, from now on, as [Detector.Control] does, and
// follows the path. An error means that nothing protects it.
func (s *Paths) Tie(ctx context.Context, p Path, c syscall.RawConn) (*Followed, error) {
	f := s.Follow(ctx, p, nil)
	if err := f.Protection().tie(c); err != nil {
		f.Stop()
		return nil, err
	}
	return f, nil
}

// Guard gives a listener that accepts from ln, which is for TCP, only what comes by a protected
// path, and ties it to that as [Detector.Control] does. All else is reset, before
// anything is read of it, and refused is told why.
func (s *Paths) Guard(ln net.Listener, refused func(remote net.Addr, why error)) net.Listener {
	return guarded{ln, s, refused}
}

type guarded struct {
	net.Listener
	paths   *Paths
	refused func(remote net.Addr, why error)
}

func (l guarded) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err = l.admit(c); err == nil {
			return c, nil
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // or it ends in some other way
		}
		_ = c.Close() // nobody has used it
		l.refused(c.RemoteAddr(), err)
	}
}

// admit ties a connection that has come in.
func (l guarded) admit(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return errors.New("it is no TCP connection")
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	path := Path{Local: addrPort(tcp.LocalAddr()), Remote: addrPort(tcp.RemoteAddr())}
	p := l.paths.Look(context.Background(), path)
	if err := p.tie(raw); err != nil {
		return err
	}
	if age, ok := ageOf(raw); ok && p.youngerThan(age) {
		return errEarlier
	}
	return nil
}

// errEarlier refuses what may have begun in clear, and have waited until it was accepted.
var errEarlier = fmt.Errorf("%w: the connection is older than the association", ErrUnprotected)

// sinceWithin is how exactly it is known when an association began: to the second.
const sinceWithin = time.Second

// youngerThan tells whether there has certainly been something before the protection that is so old.
func (p Protection) youngerThan(age time.Duration) bool {
	return !p.Since.IsZero() && age > time.Since(p.Since)+sinceWithin
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return tcp.AddrPort()
}
