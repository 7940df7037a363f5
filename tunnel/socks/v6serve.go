package socks

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

var (
	errLogin6   = &Error{NotAllowed, errMethods}
	errSession6 = &Error{NotAllowed, errors.New("the app names a SOCKS 6 session that there is not")}
	errToken6   = &Error{NotAllowed, errors.New("the app spends a SOCKS 6 token that is not its to spend")}
)

// socks6 serves an app that speaks SOCKS 6.
func (a *app) socks6(ctx context.Context) error {
	q, err := ReadRequest6(a.in)
	if err != nil {
		return err
	}
	var initial []byte
	if a.entry != refused { // who is need not say it
		if initial, err = ReadInitial6(a.in, q.Options.Offer); err != nil {
			return err
		}
	}
	g, err := a.admit6(ctx, q.Options)
	if err != nil {
		return err
	}
	near, far := a.ownLeg6(q.Options.Stack), targetLeg6(q.Options.Stack)
	answer := func(r Reply) []byte { return answer6(r, near) }
	if q.Command == Noop {
		a.dismiss(answer(Reply{}))
		return nil
	}
	r := Request{Command: q.Command, Dst: q.Dst, Dialect: SOCKS6, Initial: initial, Stack: far}
	switch {
	case r.Command == Associate:
		return a.associate6(ctx, g, q.Options.inSession(), r, answer)
	case r.Command == Bind && q.Options.inSession() != nil:
		return a.bindInSession6(ctx, g, q.Options.inSession(), r, answer)
	}
	return a.carry(ctx, g, &r, answer)
}

// inSession gives the session that a request is in, or nil.
func (o Options6) inSession() []byte {
	if len(o.SessionID) == 0 || o.SessionTeardown {
		return nil
	}
	return o.SessionID
}

// admit6 finds out who an app is, and answers. It has ended the connection if there
// is an error.
func (a *app) admit6(ctx context.Context, o Options6) (*guest, error) {
	var p AuthReply6
	g, err := a.identify6(ctx, o, &p.Options)
	p.OK = err == nil
	if _, ok := errors.AsType[*Error](err); err != nil && !ok {
		return nil, err // there is nobody to tell
	}
	b, encoding := p.AppendBinary(nil)
	if encoding != nil {
		return nil, encoding
	}
	if err != nil {
		a.dismiss(b)
		return nil, err
	}
	if _, err := a.conn.Write(b); err != nil {
		return nil, fmt.Errorf("answer a SOCKS 6 login: %w", err)
	}
	return g, nil
}

// identify6 finds out who an app is, by the session that it names or anew, and puts
// what the app is to know of it into say. Its error is an [*Error] if the app is to
// be told.
func (a *app) identify6(ctx context.Context, o Options6, say *Options6) (*guest, error) {
	sessions := &a.door.sessions
	if o.inSession() != nil {
		g := a.resume(ctx, sessions, o.SessionID)
		if g == nil {
			say.SessionInvalid = true
			return nil, errSession6
		}
		say.SessionOK = true
		if !sessions.tokens(o.SessionID, o, say) {
			*say = Options6{TokenRejected: true}
			return nil, errToken6
		}
		return g, nil
	}
	g, err := a.authenticate6(ctx, o, say)
	if err != nil {
		return nil, err
	}
	if o.SessionTeardown {
		sessions.end(o.SessionID, g)
	}
	if o.SessionRequest {
		say.SessionID = sessions.begin(g)
		sessions.tokens(say.SessionID, Options6{WindowRequest: o.WindowRequest}, say)
	}
	return g, nil
}

// authenticate6 finds out who an app is by what it says of itself in the request, or
// else by asking.
func (a *app) authenticate6(ctx context.Context, o Options6, say *Options6) (*guest, error) {
	for _, data := range o.Auth {
		if Method(data.Method) == MethodPassword && a.ready(MethodPassword) {
			return a.login6(ctx, data.Data, say)
		}
	}
	if g := a.enter(); g != nil {
		return g, nil
	}
	if o.Offer == nil {
		return nil, errLogin6
	}
	// Method 01 is one of SOCKS 5 alone.
	offered := slices.DeleteFunc(slices.Clone(o.Offer.Methods), func(m byte) bool { return Method(m) == MethodGSSAPI })
	switch method := a.choose(offered); method {
	case MethodPassword:
		return a.ask6(ctx, method)
	default:
		say.Selected = new(byte(noMethod))
		return nil, errLogin6
	}
}

// login6 takes a user and a password from a request's option.
func (a *app) login6(ctx context.Context, data []byte, say *Options6) (*guest, error) {
	var g *guest
	user, password, err := ParsePasswordLogin6(data)
	if err != nil {
		err = &Error{NotAllowed, err}
	} else if g = a.login(ctx, user, password); g == nil {
		err = errLogin
	}
	status := byte(0)
	if g == nil {
		status = 1
	}
	say.Auth = []AuthData6{{Method: byte(MethodPassword), Data: []byte{login5, status}}}
	return g, err
}

// ask6 asks for a user and a password, and answers what it gets as in SOCKS 5. The
// second authentication reply is still to come.
func (a *app) ask6(ctx context.Context, method Method) (*guest, error) {
	b, err := AuthReply6{Options: Options6{Selected: new(byte(method))}}.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	if _, err := a.conn.Write(b); err != nil {
		return nil, fmt.Errorf("ask for a SOCKS 6 login: %w", err)
	}
	g, err := a.readLogin(ctx)
	status := byte(0)
	if _, ok := errors.AsType[*Error](err); ok {
		status = 1
	} else if err != nil {
		return nil, err
	}
	if _, err := a.conn.Write([]byte{login5, status}); err != nil {
		return nil, fmt.Errorf("answer a SOCKS 6 login: %w", err)
	}
	return g, err
}

// answer6 gives an operation reply, with what was done on the app's own leg.
func answer6(r Reply, near []StackOption6) []byte {
	p := OperationReply6{Code: r.Code}
	if p.Code > TimedOut {
		p.Code = GeneralFailure
	}
	if bound := r.Bound.Addr(); bound.IsValid() {
		p.Bound = Addr{IP: bound.Unmap().WithZone(""), Port: r.Bound.Port()}
	}
	if r.Code == Succeeded {
		p.Options.Stack = append(targetLeg6(r.Stack), near...)
	}
	b, err := p.AppendBinary(nil)
	if err != nil { // the relay says what cannot be said
		b, _ = OperationReply6{Code: p.Code, Bound: p.Bound}.AppendBinary(nil)
	}
	return b
}
