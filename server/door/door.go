// Package door opens the server's own doors, for apps that come without a client of
// adit's: over TLS, or on a path that something below protects. Each app has to be a
// user, whom it proves to be by a Kerberos ticket, a password, a client certificate or
// the network that it comes from. What it asks for passes as that user's.
package door

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/socks"
)

// Method is a way for an app to prove which user it is.
type Method string

// The methods.
const (
	GSSAPI      Method = "gssapi"      // a Kerberos ticket (RFC 1961)
	Password    Method = "password"    // RFC 1929, and the Basic scheme of HTTP
	Certificate Method = "certificate" // of the app, over TLS
	IKE         Method = "ike"         // the gateway that the app is behind has proved who it is
	Network     Method = "network"     // that the app comes from
)

// Methods are all that there are.
func Methods() []Method { return []Method{GSSAPI, Password, Certificate, IKE, Network} }

// What a door leaves to nobody who has not been let in.
const (
	maxStrangers     = 512
	maxHostStrangers = 64
	handshakeTimeout = 10 * time.Second
)

// Context is an established GSS-API context, as crypto/gss/cfx has them.
type Context interface {
	socks.GSSContext
	Name() string // of the peer: "alice@EXAMPLE.ORG"
}

// Config says who may come in at a door, and how. Server, Users and Methods are needed,
// and what the methods need.
type Config struct {
	Server *server.Server
	Users  *users.Store

	// Name is what rules and records call the door: the address that the config says.
	Name string

	// Methods are offered in this order, which counts for apps that can do several.
	Methods []Method

	// From are the networks whose hosts may come at all. Empty: all may.
	From []netip.Prefix

	// TLS is what apps have to speak. nil: nothing, as the path is protected. For
	// [Certificate] it verifies the certificates that apps show.
	TLS *tls.Config

	// Accept verifies a Kerberos token, for [GSSAPI].
	Accept func(token []byte) (c Context, reply []byte, err error)

	// Protection is what an app has to agree to that comes by ticket. NEC lets it do so
	// as the SOCKS library of NEC does.
	Protection socks.GSSProtection
	NEC        bool

	// Names gives the users that certificates stand for, for [Certificate].
	Names Names

	// Below gives the path of an app below the door. It may call lost at any time, which ends
	// the app's stay. nil: nothing is known of it.
	Below func(ctx context.Context, e socks.Entry, lost func()) Path

	// Peer tells who the other end of a path has proved to be to what protects it, and
	// Identities which users those are, for [IKE].
	Peer       func(ctx context.Context, local, remote netip.AddrPort) string
	Identities map[string]string

	// Networks gives the users of networks, for [Network]. The smallest that fits counts.
	Networks map[netip.Prefix]string

	// UDP serves datagrams, which travel beside the connection: TLS does not protect
	// them.
	UDP bool

	Log *slog.Logger // nil: nothing is logged
}

// Path is what is known of an app's path below the door.
type Path struct {
	Words func() []string // for what protects it at the moment, as rules call it
	Keep  func() error    // see [server.Visitor]
	Stop  func()          // ends looking at it
}

// Door is a door of the server's. Its methods are safe for concurrent use.
type Door struct {
	cfg  Config
	apps atomic.Int64
}

// New gives a door. Nothing happens before Serve.
func New(cfg Config) *Door {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Door{cfg: cfg}
}

// Serve lets apps in through ln until ctx ends, which resets their connections. If
// somebody else closes ln, those that are in go on, and Serve returns when the last one
// has gone.
func (d *Door) Serve(ctx context.Context, ln net.Listener) error {
	s := socks.Door{
		Admission:        socks.Admission{Identify: d.identify, Methods: d.methods},
		UDP:              socks.UDP{Off: !d.cfg.UDP},
		TLS:              d.cfg.TLS,
		From:             d.cfg.From,
		HandshakeTimeout: handshakeTimeout,
		MaxStrangers:     maxStrangers,
		MaxHostStrangers: maxHostStrangers,
		Enter:            d.enter,
		Log:              d.cfg.Log.With("door", ln.Addr()),
	}
	if d.offers(Password) {
		s.Admission.Authenticate = d.checkPassword
	}
	if d.offers(GSSAPI) {
		s.Admission.GSSAPI = d.acceptTicket
	}
	return s.Serve(ctx, ln)
}

// Apps is how many apps are in.
func (d *Door) Apps() int { return int(d.apps.Load()) }

func (d *Door) offers(m Method) bool { return slices.Contains(d.cfg.Methods, m) }

// methods gives the numbers that the methods have in SOCKS 5.
func (d *Door) methods(context.Context, netip.AddrPort) []socks.Method {
	var all []socks.Method
	for _, m := range d.cfg.Methods {
		number := socks.MethodNone // what proves it is not in SOCKS
		switch m {
		case GSSAPI:
			number = socks.MethodGSSAPI
		case Password:
			number = socks.MethodPassword
		}
		if !slices.Contains(all, number) {
			all = append(all, number)
		}
	}
	return all
}

// visit is the stay of one app.
type visit struct {
	*server.Visit
	door *Door
	stop func() // looking at the path
}

func (v visit) Close() {
	v.Visit.Close()
	v.stop()
	v.door.apps.Add(-1)
}

func (d *Door) enter(ctx context.Context, e socks.Entry) (socks.Stay, error) {
	path := Path{Words: func() []string { return nil }, Stop: func() {}}
	here, lost := context.WithCancel(context.WithoutCancel(ctx))
	if d.cfg.Below != nil {
		path = d.cfg.Below(ctx, e, lost)
	}
	came := d.came(ctx, e)
	v, err := d.cfg.Server.Visit(ctx, server.Visitor{User: e.User, Keep: path.Keep, Came: func() policy.Who {
		now := came
		now.Protection = slices.Concat(came.Protection, gssWords(e.GSS()), path.Words())
		return now
	}})
	if err != nil {
		path.Stop()
		lost()
		return nil, err
	}
	context.AfterFunc(here, v.Close) // at once, if it has been lost meanwhile
	d.apps.Add(1)
	return visit{v, d, func() { path.Stop(); lost() }}, nil
}

// gssWords are what rules call a level of protection.
func gssWords(level socks.GSSLevel) []string {
	switch level {
	case socks.GSSLevelIntegrity, socks.GSSLevelSelective:
		return []string{"gss-integrity"}
	case socks.GSSLevelConfidentiality:
		return []string{"gss-confidentiality"}
	}
	return nil
}

// came says how an app has come in, as rules call it.
func (d *Door) came(ctx context.Context, e socks.Entry) policy.Who {
	w := policy.Who{Door: d.cfg.Name, Method: server.MethodWord(e.By)}
	if e.TLS != nil {
		w.Protection, w.Cipher = []string{"tls"}, tls.CipherSuiteName(e.TLS.CipherSuite)
	}
	if w.Method == "" {
		w.Method = string(d.silently(ctx, e))
	}
	return w
}

// silently is the method by which an app has come in that has not said who it is.
func (d *Door) silently(ctx context.Context, e socks.Entry) Method {
	for _, m := range d.cfg.Methods {
		switch {
		case m == Certificate && e.TLS != nil && len(e.TLS.VerifiedChains) > 0 && d.cfg.Names.User(e.TLS.PeerCertificates[0]) == e.User:
			return Certificate
		case m == IKE && d.userByPeer(ctx, e.Local, e.Source) == e.User:
			return IKE
		case m == Network && d.userByNetwork(e.Source.Addr()) == e.User:
			return Network
		}
	}
	return Network
}

func (d *Door) checkPassword(ctx context.Context, source netip.AddrPort, user, password string) bool {
	_, err := d.cfg.Users.CheckPassword(ctx, user, password, source.Addr())
	d.cfg.Server.Record(server.Attempt{User: user, Method: string(Password), Door: d.cfg.Name, Source: source, Err: err})
	switch {
	case err == nil:
		return true
	case users.ValidName(user) != nil:
		user = "" // perhaps somebody has mistaken the field for the other one
	}
	level := slog.LevelWarn
	if !errors.Is(err, users.ErrPassword) {
		level = slog.LevelError
	}
	if errors.Is(err, users.ErrPasswordLimit) || ctx.Err() != nil {
		level = slog.LevelDebug // there was a line for each of those before
	}
	d.cfg.Log.Log(ctx, level, "login refused", "app", source, "user", user, "error", err)
	return false
}

func (d *Door) acceptTicket(ctx context.Context, source netip.AddrPort, token []byte) (socks.GSSGrant, error) {
	grant, err := d.judgeTicket(ctx, token)
	d.cfg.Server.Record(server.Attempt{User: grant.User, Method: string(GSSAPI), Door: d.cfg.Name, Source: source, Err: err})
	return grant, err
}

func (d *Door) judgeTicket(ctx context.Context, token []byte) (socks.GSSGrant, error) {
	c, reply, err := d.cfg.Accept(token)
	if err != nil {
		return socks.GSSGrant{}, err
	}
	user, err := d.cfg.Users.UserByPrincipal(ctx, c.Name())
	if err != nil {
		return socks.GSSGrant{}, err
	}
	return socks.GSSGrant{User: user.Name, Context: c, Reply: reply, Protection: d.cfg.Protection, NEC: d.cfg.NEC}, nil
}

// identify says who an app is by its connection.
func (d *Door) identify(ctx context.Context, conn net.Conn) (user string, err error) {
	source, err := addrPort(conn.RemoteAddr())
	if err != nil {
		return "", err
	}
	local, err := addrPort(conn.LocalAddr())
	if err != nil {
		return "", err
	}
	for _, m := range d.cfg.Methods {
		switch m {
		case Certificate:
			user = d.userByCertificate(conn)
		case Network:
			user = d.userByNetwork(source.Addr())
		case IKE:
			user = d.userByPeer(ctx, local, source)
		}
		if user != "" {
			return user, nil
		}
	}
	return "", nil
}

func addrPort(a net.Addr) (netip.AddrPort, error) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("it comes over %s", a.Network())
	}
	return netip.AddrPortFrom(t.AddrPort().Addr().Unmap().WithZone(""), t.AddrPort().Port()), nil
}

// userByPeer gives the user of a gateway, which an unprotected path has none of.
func (d *Door) userByPeer(ctx context.Context, local, source netip.AddrPort) string {
	if d.cfg.Peer == nil {
		return ""
	}
	peer := d.cfg.Peer(ctx, local, source)
	if peer == "" {
		return ""
	}
	return d.cfg.Identities[peer]
}

func (d *Door) userByCertificate(conn net.Conn) string {
	t, ok := conn.(*tls.Conn)
	if !ok {
		return ""
	}
	state := t.ConnectionState()
	if len(state.VerifiedChains) == 0 {
		return ""
	}
	return d.cfg.Names.User(state.PeerCertificates[0])
}

func (d *Door) userByNetwork(source netip.Addr) (user string) {
	longest := -1
	for p, u := range d.cfg.Networks {
		if p.Bits() > longest && p.Contains(source) {
			user, longest = u, p.Bits()
		}
	}
	return user
}
