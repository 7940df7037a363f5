package socks

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

const (
	// connectTimeout bounds how long a request may take before its answer. It is
	// what SOCKS 4 gives it.
	connectTimeout = 2 * time.Minute

	// refusedTimeout is how long an app that is not welcome has to hear so.
	refusedTimeout = time.Second

	answerTimeout = 10 * time.Second

	// An app that is sent away may have sent more than was read. A close would
	// then reset the connection and could take the answer with it, so what comes
	// is thrown away for a while: this long, and so many bytes.
	dismissTimeout = 2 * time.Second
	dismissBytes   = 64 << 10

	// attendAfter is how long a request goes on before somebody looks whether the app
	// is still there.
	attendAfter = 50 * time.Millisecond

	// aheadBytes is how much is read ahead of an app's handshake, and of an answer.
	aheadBytes = 4096
)

var (
	errNotWelcome = errors.New("not welcome")
	errForeign    = errors.New("this is no protocol that is spoken here")
	errGone       = errors.New("the app has gone")
)

// app is one app's connection from accept to the end of its handshake.
type app struct {
	conn    relay.Conn
	came    net.Conn      // as the listener gave it
	in      *bufio.Reader // of conn
	source  netip.AddrPort
	door    *serving
	entry   entry
	methods []Method       // that may be used, best first
	reason  error          // why entry is refused
	known   *guest         // for an app that need not say who it is
	stay    *stay          // of the last guest; nil if the door keeps no books
	place   *place         // among the door's strangers
	told    bool           // that it is connected, though it is not yet
	target  relay.Conn     // to relay to, once it is all settled; nil: none
	level   *atomic.Uint32 // a GSSLevel
}

// aheads are readers for handshakes. They come back from those that end well.
var aheads = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, aheadBytes) }}

func newApp(s *serving, c net.Conn) (*app, error) {
	conn, err := asConn(c)
	if err != nil {
		return nil, err
	}
	if s.TLS != nil {
		conn = serveTLS(conn, s.TLS)
	}
	a := &app{conn: conn, came: c, in: aheads.Get().(*bufio.Reader), door: s, level: new(atomic.Uint32)}
	a.in.Reset(conn)
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		a.source = unmapped(t.AddrPort())
	}
	return a, nil
}

// unmapped gives the one spelling that an address has here.
func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func asConn(c net.Conn) (relay.Conn, error) {
	switch c := c.(type) {
	case relay.Conn:
		return c, nil
	case *net.TCPConn:
		return relay.TCP(c), nil
	case *net.UnixConn:
		return unixConn{c}, nil
	}
	return nil, fmt.Errorf("a %T cannot end its directions one by one", c)
}

// unixConn offers a Unix socket as a [relay.Conn].
type unixConn struct{ *net.UnixConn }

// Reset can do no more than close: a Unix socket has no reset to send.
func (c unixConn) Reset() error { return c.Close() }

// serve speaks with the app until its connection is over, or is to be relayed to target.
func (a *app) serve(ctx context.Context) error {
	conn := a.conn
	defer context.AfterFunc(ctx, func() { conn.Reset() })()
	conn.SetDeadline(time.Now().Add(a.door.HandshakeTimeout))
	if err := a.arrive(ctx); err != nil {
		return err
	}
	err := a.speak(ctx)
	if a.entry == refused {
		return fmt.Errorf("%w: %w", errNotWelcome, a.reason)
	}
	return err
}

// arrive looks at who the app is, before it has asked for anything.
func (a *app) arrive(ctx context.Context) error {
	if a.door.asksOthers() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.door.HandshakeTimeout)
		defer cancel()
	}
	conn := net.Conn(a.conn)
	if t, ok := a.conn.(tlsConn); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("shake hands over TLS: %w", err)
		}
		conn = t.Conn
	}
	var user string
	a.entry, user, a.reason = a.door.Admission.judge(ctx, conn)
	a.methods = a.door.Admission.methods(ctx, a.source)
	if a.entry == open {
		if a.known, a.reason = a.letIn(ctx, user, MethodNone); a.known == nil {
			a.entry = refused
		}
	}
	if a.entry == refused {
		a.conn.SetDeadline(time.Now().Add(min(refusedTimeout, a.door.HandshakeTimeout)))
	}
	return nil
}

// asksOthers tells whether somebody is asked about apps who may take his time.
func (s *serving) asksOthers() bool {
	return s.TLS != nil || s.Admission.Identify != nil || s.Admission.Methods != nil || s.Enter != nil
}

// speak picks the dialect by the first byte. What comes from no proxy client
// at all gets no answer.
func (a *app) speak(ctx context.Context) error {
	first, err := a.in.Peek(1)
	if err != nil {
		return fmt.Errorf("read the first byte: %w", err)
	}
	switch c := first[0]; {
	case c == 4:
		return a.socks4(ctx)
	case c == 5:
		return a.socks5(ctx)
	case c == 6:
		return a.socks6(ctx)
	case 'A' <= c && c <= 'Z':
		return a.http(ctx)
	}
	return errForeign
}

// guest is an app that has been let in. It is the only way to the relay, and
// only letIn makes one.
type guest struct {
	relay  Relay
	user   string
	by     Method // that it has come in by
	source netip.AddrPort
}

// ready tells whether an app may come in by a method, if it does what that asks for.
func (a *app) ready(m Method) bool {
	if a.entry == refused || !slices.Contains(a.methods, m) {
		return false
	}
	switch m {
	case MethodNone:
		return a.known != nil
	case MethodGSSAPI:
		return a.door.Admission.GSSAPI != nil
	case MethodPassword:
		// Some apps insist on giving a password although nobody asks for one.
		return a.door.Admission.Authenticate != nil || a.ready(MethodNone)
	}
	return false
}

// choose picks the best of the methods that an app offers, or noMethod.
func (a *app) choose(offered []byte) Method {
	for _, m := range a.methods {
		if a.ready(m) && bytes.IndexByte(offered, byte(m)) >= 0 {
			return m
		}
	}
	return noMethod
}

// letIn makes a guest of an app that has proved to be a user by a method, or of whom no
// proof is asked. The error says why it may not come in all the same.
func (a *app) letIn(ctx context.Context, user string, by Method) (*guest, error) {
	g := &guest{relay: a.door.Relay, user: user, by: by, source: a.source}
	if a.door.Enter != nil {
		if err := a.enterStay(ctx, g); err != nil {
			return nil, err
		}
	}
	a.place.leave()
	return g, nil
}

// enter gives nil unless the app may come in without a word.
func (a *app) enter() *guest {
	if !a.ready(MethodNone) {
		return nil
	}
	return a.known
}

// login gives nil unless the app may come in with this password. Where nobody
// asks for one, any will do, and proves nothing.
func (a *app) login(ctx context.Context, user, password string) *guest {
	if a.door.Admission.Authenticate == nil {
		return a.enter()
	}
	if !a.ready(MethodPassword) || user == "" || password == "" || len(user) > 255 || len(password) > 255 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.door.HandshakeTimeout)
	defer cancel()
	if !a.door.Admission.Authenticate(ctx, a.source, user, password) {
		return nil
	}
	return a.letInOrLog(ctx, user, MethodPassword)
}

// resume gives nil unless the app may come in by a session of SOCKS 6.
func (a *app) resume(ctx context.Context, t *sessions6, id []byte) *guest {
	user, by, ok := t.user(id, a.source.Addr())
	switch {
	case !ok || !a.ready(by):
		return nil // perhaps what was good enough then is not good enough here
	case by == MethodNone && a.known.user == user:
		return a.known
	case by == MethodNone:
		return nil
	}
	return a.letInOrLog(ctx, user, by)
}

// letInOrLog gives nil, and tells why, if the app may not come in.
func (a *app) letInOrLog(ctx context.Context, user string, by Method) *guest {
	g, err := a.letIn(ctx, user, by)
	if err != nil && a.door.warn.Allows() {
		a.door.Log.Warn("refused an app", "app", a.source, "error", err)
	}
	return g
}

func (g *guest) connect(ctx context.Context, r Request) (relay.Conn, Reply, error) {
	r.User, r.Source = g.user, g.source
	return g.relay.Connect(ctx, r)
}

// answer encodes a reply in the app's dialect.
type answer func(Reply) []byte

// carry carries out a request of any SOCKS and relays until both directions
// have ended.
func (a *app) carry(ctx context.Context, g *guest, r *Request, answer answer) error {
	switch {
	case r.Command == Connect:
	case r.Command == Bind:
		return a.bind(ctx, g, *r, answer)
	case r.isResolve():
		return a.resolve(ctx, g, *r, answer)
	default:
		return a.refuse(&Error{CommandNotSupported, fmt.Errorf("command %d is not served", r.Command)}, answer)
	}
	a.conn.SetDeadline(time.Time{})
	a.note(ctx, "connection", r)
	if a.early(r) {
		return a.carryEarly(ctx, g, r, answer)
	}
	target, reply, err := a.connect(ctx, g, r)
	if errors.Is(err, errGone) {
		return err
	}
	if err != nil {
		return a.refuse(&Error{CodeOf(err), err}, answer)
	}
	return a.join(target, answer(reply))
}

// note logs what an app asks for. Most logs do not want to know, and it costs nothing then.
func (a *app) note(ctx context.Context, what string, r *Request) {
	if a.door.Log.Enabled(ctx, slog.LevelDebug) {
		a.door.Log.Debug("app asks for a "+what, "app", a.source, "dialect", r.Dialect, "target", r.Dst)
	}
}

// join gives an app its last answer, and has it relayed between the app and the target.
func (a *app) join(target relay.Conn, answer []byte) error {
	if err := a.tell(answer); err != nil {
		target.Reset()
		return err
	}
	a.relayTo(target)
	return nil
}

// relayTo has it relayed between the app and a target when all that has led here has
// returned.
func (a *app) relayTo(target relay.Conn) {
	a.conn = relay.WithPrefix(a.conn, slices.Clone(readAhead(a.in)))
	a.target = target
	a.in.Reset(nil) // its buffer is not needed while the connection lasts
	if a.in.Size() == aheadBytes {
		aheads.Put(a.in)
	}
	a.in = nil
}

// tell sends an answer that is good.
func (a *app) tell(answer []byte) error {
	a.conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	if _, err := a.conn.Write(answer); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return a.conn.SetWriteDeadline(time.Time{})
}

// connect asks the relay, and gives up with errGone if the app does.
func (a *app) connect(ctx context.Context, g *guest, r *Request) (target relay.Conn, reply Reply, err error) {
	ctx, giveUp := context.WithTimeout(ctx, connectTimeout)
	defer giveUp()
	r.User, r.Source = g.user, g.source
	gone := a.attend(giveUp, func() { target, reply, err = g.relay.Connect(ctx, *r) })
	if gone == nil {
		return target, reply, err
	}
	if err == nil {
		target.Reset()
	}
	return nil, Reply{}, gone
}

// attend calls ask, and giveUp while it lasts if the app goes; it fails with
// errGone then. It reads ahead meanwhile, for there is no other way to notice,
// but not before ask has taken a while: most take no time.
func (a *app) attend(giveUp, ask func()) (gone error) {
	watched := make(chan struct{})
	watch := time.AfterFunc(attendAfter, func() {
		defer close(watched)
		if err := a.farewell(); err != nil {
			gone = fmt.Errorf("%w: %w", errGone, err)
			giveUp()
		}
	})
	ask()
	if watch.Stop() {
		return nil
	}
	a.conn.SetReadDeadline(time.Unix(1, 0)) // ends the watch
	<-watched
	a.conn.SetReadDeadline(time.Time{})
	return gone
}

// farewell reads ahead until the app goes, and tells how it did; nil if there is no room
// left, or time. An end that follows data is no farewell: the app has said all that it
// wants to say and waits for a reply. Nor is that of an app who takes itself for connected.
func (a *app) farewell() error {
	for a.in.Buffered() < a.in.Size() {
		_, err := a.in.Peek(a.in.Buffered() + 1)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF) && (a.told || a.in.Buffered() > 0):
			return nil
		default:
			return err
		}
	}
	return nil
}

// readAhead takes what was read and not used.
func readAhead(in *bufio.Reader) []byte {
	b, _ := in.Peek(in.Buffered())
	return b
}

// refuse tells the app why it gets nothing, if there is a code for it.
func (a *app) refuse(err error, answer answer) error {
	if e, ok := errors.AsType[*Error](err); ok {
		a.dismiss(answer(Reply{Code: e.Code}))
	}
	return err
}

// dismiss sends the last words, and waits a little for the app to leave.
func (a *app) dismiss(words []byte) {
	a.conn.SetDeadline(time.Now().Add(dismissTimeout))
	if _, err := a.conn.Write(words); err != nil {
		return
	}
	if err := a.conn.CloseWrite(); err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, a.in, dismissBytes)
}
