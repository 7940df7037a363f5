// Package gss accepts GSS-API contexts by Kerberos 5 (RFC 4121), as SOCKS 5's method
// 01 needs it (RFC 1961): it verifies an app's ticket against a keytab, proves
// itself to the app, and gives a [cfx.Context] that protects messages from then on.
//
// It never asks a KDC or the network. What it does not speak: SPNEGO, which no
// SOCKS client sends; encryption with DES or RC4; user-to-user tickets. Channel
// bindings, delegated credentials and addresses in tickets are ignored.
//
// # Where the keytab is and where the app is
//
// One token comes from the app and at most one goes back; then the context is
// established. So the two may stand apart:
//
//   - At a server's own door the app's token goes to [Acceptor.Accept], the reply
//     to the app, and the context protects the app's connection.
//   - At a client's door the app's token travels through the tunnel. The server
//     calls [Acceptor.Accept], says who the principal is and what protection it
//     demands, and sends back the reply and what [cfx.Context.Export] gives. The
//     door goes on with [cfx.Import]. Keys of the keytab never leave the server; the
//     exported key is that of one app's connection to that very door.
//
// # Replays
//
// An authenticator is taken once. Besides, an app that asks for mutual
// authentication, as all known ones do, gets a key of its own for each context, so
// that what was recorded from an earlier one is worth nothing: neither after a
// restart nor at another server with the same keytab. Where an app may go on
// without any message that the context protects, only the acceptor's own memory
// stands against replays, and each acceptor has its own.
package gss

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/adit-net/adit/crypto/gss/cfx"
)

// Skew is by how much an app's clock may differ from this machine's.
const Skew = 5 * time.Minute

// Why a token is refused. [cfx.ErrEncType] is another reason.
var (
	ErrToken     = errors.New("token is malformed")
	ErrMechanism = errors.New("mechanism is not Kerberos 5")
	ErrService   = errors.New("ticket is for a service that is not served here")
	ErrRealm     = errors.New("realm is not accepted here")
	ErrTicket    = errors.New("ticket is no good")
	ErrExpired   = errors.New("ticket has expired")
	ErrSkew      = errors.New("clocks differ by more than 5 minutes")
	ErrReplay    = errors.New("token has been used before")
	ErrBusy      = errors.New("too many contexts for now")
)

// Config says whom an [Acceptor] accepts, and as what.
type Config struct {
	// Keytab is the content of a keytab file. Keys of types that are not spoken
	// here are passed over.
	Keytab []byte

	// Services names the services that tickets may be for, by the first part of
	// their principals, such as "rcmd" (what curl and Dante ask for) and "socks"
	// (what RFC 1961 says). Empty: all that the keytab has keys of.
	Services []string

	// Realms names the realms whose users are accepted. Empty: those that the
	// keytab has keys of.
	Realms []string
}

// Acceptor verifies tickets. It is safe for concurrent use.
type Acceptor struct {
	keys    keyring
	realms  []string
	replays replays
}

// NewAcceptor fails if the keytab is damaged, or has no key that can be used.
func NewAcceptor(c Config) (*Acceptor, error) {
	keys, err := parseKeytab(c.Keytab, c.Services)
	if err != nil {
		return nil, fmt.Errorf("read keytab: %w", err)
	}
	a := &Acceptor{keys: keys, realms: slices.Clone(c.Realms)}
	if len(a.realms) == 0 {
		a.realms = keys.realms()
	}
	return a, nil
}

// Accept verifies an app's only token and gives the context that it
// establishes. The reply, if it is not empty, is to be sent to the app, which
// asked for it to know the acceptor.
//
// An error says in one of this package's terms why nobody may come in. It holds
// no secret. The app learns nothing but that it failed.
func (a *Acceptor) Accept(token []byte) (c *cfx.Context, reply []byte, err error) {
	if c, reply, err = a.accept(token, time.Now()); err != nil {
		return nil, nil, fmt.Errorf("accept GSS-API context: %w", err)
	}
	return c, reply, nil
}

func (a *Acceptor) accept(token []byte, now time.Time) (*cfx.Context, []byte, error) {
	mechanism, message, err := cutToken(token)
	if err != nil {
		return nil, nil, err
	}
	r, err := a.verify(message, now)
	if err != nil {
		return nil, nil, err
	}
	// Without mutual authentication both sides count from the same number.
	s := cfx.State{Key: r.key, Send: r.sequence, Receive: r.sequence, Peer: r.peer}
	var reply []byte
	if r.peer.Flags&cfx.Mutual != 0 {
		first := firstSequence()
		s.Key, s.AcceptorKey, s.Send = r.key.Fresh(), true, uint64(first)
		part := replyPart{time: r.time, micros: r.micros, key: &s.Key, sequence: first}
		if reply, err = part.token(mechanism, r.session); err != nil {
			return nil, nil, err
		}
	}
	c, err := cfx.New(s)
	if err != nil {
		return nil, nil, err
	}
	return c, reply, nil
}

// firstSequence is where an acceptor starts to count: random, as RFC 4120 section
// 5.3.2 asks for, with the top bits clear, which some take for a sign, and not
// zero, which would be left out.
func firstSequence() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:])>>2 | 1
}
