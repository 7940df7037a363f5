package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/gss/cfx"
	"github.com/adit-net/adit/tunnel/socks"
)

// exitAdmission lets in whom the server knows, and finds out who that is there.
func exitAdmission(c *client.Client, log *slog.Logger) socks.Admission {
	e := &exitLogin{client: c, log: log}
	return socks.Admission{Authenticate: e.checkPassword, GSSAPI: e.acceptTicket, Methods: e.loginMethods}
}

// exitLogin asks the server on behalf of the door. It is safe for concurrent use.
type exitLogin struct {
	client *client.Client
	log    *slog.Logger

	mu      sync.Mutex
	methods []socks.Method
	until   time.Time // when the server is to be asked again
}

// It is relied for so long on what methods the server has, or that it cannot be asked.
const (
	methodsLast   = 30 * time.Second
	noMethodsLast = time.Second
)

// loginMethods gives the server's, and none if it cannot be asked.
func (e *exitLogin) loginMethods(ctx context.Context, _ netip.AddrPort) []socks.Method {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Now().Before(e.until) {
		return e.methods
	}
	all, err := e.client.LoginMethods(ctx)
	if err != nil {
		e.log.Warn("cannot ask the server how apps may log in", "error", err)
		e.methods, e.until = nil, time.Now().Add(noMethodsLast)
		return nil
	}
	e.methods, e.until = all, time.Now().Add(methodsLast)
	return all
}

func (e *exitLogin) checkPassword(ctx context.Context, source netip.AddrPort, user, password string) bool {
	err := e.client.LogIn(ctx, user, password)
	e.note(source, err)
	return err == nil
}

func (e *exitLogin) acceptTicket(ctx context.Context, source netip.AddrPort, token []byte) (socks.GSSGrant, error) {
	grant, err := e.client.LogInByToken(ctx, token)
	e.note(source, err)
	if err != nil {
		return socks.GSSGrant{}, err
	}
	context, err := cfx.Import(grant.Context)
	if err != nil {
		return socks.GSSGrant{}, err
	}
	return socks.GSSGrant{
		User: grant.User, Context: context, Reply: grant.Reply, Protection: grant.Protection, NEC: grant.NEC,
	}, nil
}

// note logs why an app is not let in. The server's log says more.
func (e *exitLogin) note(source netip.AddrPort, err error) {
	switch {
	case err == nil:
	case errors.Is(err, client.ErrLogin):
		e.log.Warn("login refused", "app", source, "error", err)
	default:
		e.log.Warn("cannot let the server verify a login", "app", source, "error", err)
	}
}
