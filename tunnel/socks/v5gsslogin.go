package socks

import (
	"bufio"
	"context"
	"fmt"

	"github.com/adit-net/adit/tunnel/relay"
)

// loginGSS lets an app in that has been told to use method 01. From then on its
// connection is protected as agreed.
func (a *app) loginGSS(ctx context.Context) (*guest, error) {
	ctx, cancel := context.WithTimeout(ctx, a.door.HandshakeTimeout)
	defer cancel()
	var g *guest
	channel, err := NegotiateGSS(ctx, a.in, a.conn, func(ctx context.Context, token []byte) (GSSGrant, error) {
		grant, err := a.door.Admission.GSSAPI(ctx, a.source, token)
		if err != nil || grant.User == "" {
			return GSSGrant{}, err
		}
		g, err = a.letIn(ctx, grant.User, MethodGSSAPI)
		return grant, err
	})
	if err != nil {
		a.dismiss(nil)
		return nil, fmt.Errorf("%w: %w", errNotWelcome, err)
	}
	a.level.Store(uint32(channel.Level))
	if channel.Level != GSSLevelNone {
		a.conn = channel.Conn(relay.WithPrefix(a.conn, readAhead(a.in)))
		a.in = bufio.NewReaderSize(a.conn, aheadBytes)
	}
	return g, nil
}
