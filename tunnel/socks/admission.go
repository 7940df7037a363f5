package socks

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
)

// Admission says which apps a door lets in. The zero value lets in the
// processes of the door's own local user and nobody else: over loopback TCP
// where the kernel tells who is at the other end (Linux), and over a Unix socket
// that is its user's alone (see [ListenUnix]).
type Admission struct {
	// Authenticate says whether a user's password is right. If it is set, every
	// app has to give one, wherever it comes from, and apps that cannot, as
	// those of SOCKS 4, stay outside. It takes as long for a user who does not
	// exist as for a wrong password, and is safe for concurrent use. Passwords
	// have 1 to 255 bytes.
	Authenticate func(ctx context.Context, source netip.AddrPort, user, password string) bool

	// GSSAPI says who an app is by the token that it sends, as [NegotiateGSS] wants it.
	// It is another way instead of a password. It is safe for concurrent use.
	GSSAPI func(ctx context.Context, source netip.AddrPort, token []byte) (GSSGrant, error)

	// Identify says who an app is before it says anything: by the address that it comes
	// from, or by the certificate that it has shown on a [tls.Conn]. Apps for which it
	// gives neither a user nor an error have to say so in one of the other ways; with
	// an error they stay outside. It is safe for concurrent use.
	Identify func(ctx context.Context, conn net.Conn) (user string, err error)

	// Anyone lets in every local user. It holds for loopback and Unix sockets
	// only.
	Anyone bool

	// Methods gives the ways in which an app may say who it is, best first, by where
	// it comes from. It can only take away from what the other fields let in. nil
	// stands for all, those that prove least first. Where the answer depends on
	// the user, it is for Authenticate to give. It has as long as the handshake.
	Methods func(ctx context.Context, source netip.AddrPort) []Method

	vouched bool // somebody else has let the app in
}

// Method is a way for an app to say who it is, by its number in SOCKS 5 and 6. The
// other dialects' ways have the same numbers.
type Method byte

// The methods that a door knows.
const (
	MethodNone     Method = 0 // it says nothing
	MethodGSSAPI   Method = 1 // RFC 1961; SOCKS 5 alone has it
	MethodPassword Method = 2 // RFC 1929, and the Basic scheme of HTTP

	noMethod Method = 0xff // in place of one, in answers
)

func (a Admission) methods(ctx context.Context, source netip.AddrPort) []Method {
	if a.Methods == nil {
		return []Method{MethodNone, MethodPassword, MethodGSSAPI}
	}
	return a.Methods(ctx, source)
}

// Password gives an [Admission.Authenticate] for one user, in constant
// time. An empty password is never right.
func Password(user, password string) func(ctx context.Context, source netip.AddrPort, user, password string) bool {
	wantUser, wantPassword := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	usable := password != ""
	return func(_ context.Context, _ netip.AddrPort, user, password string) bool {
		u, p := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
		same := subtle.ConstantTimeCompare(u[:], wantUser[:]) & subtle.ConstantTimeCompare(p[:], wantPassword[:])
		return usable && same == 1
	}
}

var (
	errBothWays = errors.New("a password is asked for and anyone is let in: choose one")
	errNotLocal = errors.New("the address is not a loopback one and no password is asked for")
	errNameless = errors.New("nothing says who the app is")
)

// asks tells whether apps must be somebody, instead of belonging to a local user.
func (a Admission) asks() bool { return a.provable() || a.Identify != nil }

// provable tells whether an app can say who it is.
func (a Admission) provable() bool { return a.Authenticate != nil || a.GSSAPI != nil }

// Check says whether a door may listen at an address with this admission: any
// other address than loopback needs a password. Its error wraps
// [errors.ErrUnsupported] if this system does not tell which user an app
// belongs to; a password or a Unix socket helps then.
func (a Admission) Check(listen net.Addr) error {
	switch {
	case a.asks() && a.Anyone:
		return errBothWays
	case a.asks():
		return nil
	}
	switch listen := listen.(type) {
	case *net.UnixAddr:
		if a.Anyone {
			return nil
		}
		return checkPrivate(listen.Name)
	case *net.TCPAddr:
		if !listen.IP.IsLoopback() {
			return errNotLocal
		}
		if a.Anyone {
			return nil
		}
		if err := canTellUsers(listen.IP); err != nil {
			return fmt.Errorf("tell users apart: %w", err)
		}
		return nil
	}
	return errNotLocal
}

// checkPrivate fails unless path is a socket that no other user may connect to.
func checkPrivate(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("check socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("socket %s has mode %v: other users may connect to it", path, info.Mode())
	}
	return nil
}

// entry is what a door makes of an app before the app has said anything.
type entry byte

const (
	refused entry = iota
	needsProof
	open
)

// judge looks at who is at the other end. The user may have no name if the door does
// not go by names. The error says why an app is refused.
func (a Admission) judge(ctx context.Context, c net.Conn) (e entry, user string, err error) {
	if a.vouched {
		return open, "", nil
	}
	if a.asks() {
		return a.identify(ctx, c)
	}
	if _, ok := c.LocalAddr().(*net.UnixAddr); ok || a.Anyone {
		return open, "", nil // Check has passed the socket's mode
	}
	if err := checkUser(c); err != nil {
		return refused, "", err
	}
	return open, "", nil
}

func (a Admission) identify(ctx context.Context, c net.Conn) (e entry, user string, err error) {
	if a.Identify != nil {
		if user, err = a.Identify(ctx, c); user != "" && err == nil {
			return open, user, nil
		}
	}
	if err != nil || !a.provable() {
		return refused, "", cmp.Or(err, errNameless)
	}
	return needsProof, "", nil
}
